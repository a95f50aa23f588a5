"""A trace has one meaning on every machine; what is not a time is named by its line."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmload.errors import DataError
from llmload.prompts.trace import Unit, read_trace
from llmload.scenario.loads import Replay

MARK = "\ufeff"
MOONCAKE = {"timestamp": 0, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}


def times(folder: Path, text: str, name: str = "t.csv", column: str = "t", unit: Unit | None = None) -> list[float]:
    (folder / name).write_text(text, encoding="utf-8", newline="")
    return [round(each, 6) for each in read_trace(name, column, folder, unit)]


def lines(*values: Any) -> str:
    return "".join(f"{json.dumps({'t': value})}\n" for value in values)


@pytest.mark.parametrize(
    "text",
    [
        "t\n0\n1.5\n",
        f"{MARK}t\r\n0\r\n1.5\r\n",
        "\n\nt\n\n0\n \n1.5\n\n",
        "t,x\n1.5,b\n0,a\n",
        '"x","t"\n"a\nb","10"\n"",11.5\n',
        "t\n-1e3\n-998.5\n",
        "t\n2024-03-31 01:59:59\n2024-03-31T02:00:00.500\n",
        "t\n2024-03-31T00:00:00+02:00\n2024-03-30T22:00:01.5Z\n",
        "t\n1969-12-31 23:59:59\n1970-01-01 00:00:00.5\n",
        "t\n2023-11-16 18:17:03.9799600\n2023-11-16 18:17:05.4799600\n",
    ],
)
def test_csv_is_read_whatever_carries_nothing(tmp_path: Path, text: str) -> None:
    assert times(tmp_path, text) == [0, 1.5]


@pytest.mark.parametrize(
    "text",
    [
        lines(0, 1.5),
        MARK + lines(0, 1.5),
        f"\n{lines(0)}\n \n{lines(1.5)}\n\n",
        json.dumps([{"t": 3}, {"t": 4.5}], indent=1),
        lines("0", "1.5"),
        lines(1.5, 0),
        '{"t": 0, "x": "\\ud800"}\n{"t": 1.5, "y": NaN}\n',
    ],
)
def test_json_is_read_whatever_carries_nothing(tmp_path: Path, text: str) -> None:
    assert times(tmp_path, text, "t.jsonl") == [0, 1.5]


def test_one_arrival_and_the_same_time_twice_are_arrivals(tmp_path: Path) -> None:
    assert times(tmp_path, "t\n7\n") == [0]
    assert times(tmp_path, "t\n7\n7\n7\n") == [0, 0, 0]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia"])
def test_a_time_without_a_zone_is_the_same_in_every_zone(tmp_path: Path, zone: str) -> None:
    (tmp_path / "t.csv").write_text("t\n2024-03-31 01:59:59\n2024-03-31 03:00:00\n2024-03-31T03:00:01Z\n")
    program = "import sys; from pathlib import Path; from llmload.prompts.trace import read_trace; "
    program += "print(*read_trace('t.csv', 't', Path(sys.argv[1])))"

    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env=os.environ | {"TZ": zone},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "0.0 3601.0 3602.0\n"


@pytest.mark.parametrize(
    ("unit", "numbers"),
    [
        ("s", (1_711_843_199, 1_711_843_200.5)),
        ("ms", (1_711_843_199_000, 1_711_843_200_500)),
        ("us", (0, 1_500_000)),
        ("ns", (0, 1_500_000_000)),
    ],
)
def test_numbers_are_of_the_unit(tmp_path: Path, unit: Unit, numbers: tuple[float, float]) -> None:
    assert times(tmp_path, lines(*numbers), "t.jsonl", unit=unit) == [0, 1.5]


@pytest.mark.parametrize("more", [{}, {"type": "chat"}])
@pytest.mark.parametrize("left_out", [set(), {"hash_ids"}])
def test_mooncakes_time_stamps_are_milliseconds(tmp_path: Path, more: dict[str, Any], left_out: set[str]) -> None:
    rows = [{**MOONCAKE, **more, "timestamp": at} for at in (27_482, 30_535, 30_535)]
    text = "".join(json.dumps({k: v for k, v in row.items() if k not in left_out}) + "\n" for row in rows)

    assert times(tmp_path, text, "t.jsonl", "timestamp") == [0, 3.053, 3.053]
    assert times(tmp_path, text, "t.jsonl", "timestamp", "s") == [0, 3053, 3053]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("t\n0\n\nsoon\n", "line 4: 'soon' is neither a number nor an ISO date and time"),
        ("t\n0\nnan\n", "line 3: 'nan' is neither"),
        ("t\n0\ninf\n", "line 3: 'inf' is neither"),
        ("t\n1_000\n", "line 2: '1_000' is neither"),
        ("t,x\n0,1\n,1\n", "line 3: '' is neither"),
        ("x,t\n0,1\n0\n", "line 3: None is neither"),
        ("t\n0\n2024-01-01\n", "line 3: '2024-01-01' is a date, but the first row has a number"),
        ("t\n2024-01-01\n5\n", "line 3: '5' is a number, but the first row has a date"),
        ("a,b\n0,1\n", "line 2: has no 't' but a, b: set load.column"),
        ("a;t\n0;1\n", "line 2: has no 't' but a;t: set load.column"),
        ('t\n0\n"1\n', "line 3 is not CSV"),
        ("t\n" + "9" * 200_000 + "\n", "line 2 is not CSV: field larger"),
        ("t\n1711843199000\n1711843200500\n", 'beyond the year 5138: .*--set load.unit="ms"'),
        ("t\n", "has no arrivals"),
        ("\n\n", "has no arrivals"),
        ("", "is empty"),
    ],
)
def test_what_is_not_a_time_is_named_by_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(DataError, match=rf"load\.trace: .*t\.csv.*{says}") as refused:
        times(tmp_path, text)

    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "value", ["true", "null", "[1]", "{}", '"x"', "NaN", "Infinity", "1e999", "9" * 400, '"' + "x" * 1000 + '"', "["]
)
def test_a_value_of_json_that_is_not_a_time_is_named_by_its_line(tmp_path: Path, value: str) -> None:
    with pytest.raises(DataError, match=r"t\.jsonl, ?line 3|t\.jsonl: line 3") as refused:
        times(tmp_path, f'{{"t": 0}}\n\n{{"t": {value}}}\n', "t.jsonl")

    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
@pytest.mark.parametrize("content", ["t\n0\n".encode("utf-16"), b"\x1f\x8b\x08", b"t\n\xe9\n"])
def test_other_encodings_are_refused_in_a_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(DataError, match=rf"load\.trace: .*{name}: .*(UTF-16|gzip|UTF-8|is not JSON)"):
        read_trace(name, "t", tmp_path)


@pytest.mark.parametrize("source", ["none.csv", ".", "x" * 5_000, "a\0b"])
def test_what_is_not_a_file_is_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(DataError, match=r"load\.trace: "):
        read_trace(source, "t", tmp_path)


class TestLength:
    @pytest.mark.parametrize(
        ("text", "days"),
        [
            ("t\n0\n1000000\n", "11.6 days"),
            ("t\n2024-01-01\n2031-01-01\n", "2,557.0 days"),
            ("t\n1970-01-01\n2024-01-01\n2024-01-01 00:00:01\n", "19,723.0 days"),
        ],
    )
    def test_a_replay_of_weeks_is_refused_with_its_length_and_gap(self, tmp_path: Path, text: str, days: str) -> None:
        (tmp_path / "t.csv").write_text(text)

        with pytest.raises(ValueError, match=rf"would take {days} to replay.*longest gap .* before arrival 2 of"):
            Replay(kind="replay", trace="t.csv", column="t").check_files(tmp_path)

    @pytest.mark.parametrize("more", [{"speed": 1000.0}, {"requests": 1}, {"duration_s": 60.0}, {"unit": "ms"}])
    def test_what_shortens_it_lets_it_run(self, tmp_path: Path, more: dict[str, Any]) -> None:
        (tmp_path / "t.csv").write_text("t\n0\n1000000\n")

        Replay(kind="replay", trace="t.csv", column="t", **more).check_files(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    moments=st.lists(
        st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 # the strategy adds the zone
        min_size=1,
        max_size=8,
    ),
    hours=st.integers(-12, 14),
    naive=st.booleans(),
)
def test_dates_are_as_far_apart_as_they_are(tmp_path: Path, moments: list[datetime], hours: int, naive: bool) -> None:
    shift = timedelta(hours=hours)
    written = [(m.replace(tzinfo=None) if naive else m + shift).isoformat() for m in moments]
    if not naive:
        written = [f"{text.removesuffix('+00:00')}{hours:+03d}:00" for text in written]
    first = min(moments)

    read = times(tmp_path, "t\n" + "\n".join(written) + "\n")

    assert read == pytest.approx(sorted((m - first).total_seconds() for m in moments), abs=1e-5)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_hundred_thousand_arrivals_take_seconds(tmp_path: Path, name: str) -> None:
    count = 100_000
    text = "t\n" + "".join(f"{n / 100}\n" for n in range(count)) if name == "t.csv" else lines(*range(count))
    (tmp_path / name).write_text(text)
    began_s = time.process_time()

    assert len(read_trace(name, "t", tmp_path)) == count
    assert time.process_time() - began_s < 5


def test_a_trace_is_read_again_only_once_it_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("t\n1\n2\n")
    first = read_trace("t.csv", "t", tmp_path)

    again = read_trace("t.csv", "t", tmp_path)
    file.write_text("t\n1\n2\n5\n")
    changed = read_trace("t.csv", "t", tmp_path)

    assert again is first
    assert (first, changed) == ((0.0, 1.0), (0.0, 1.0, 4.0))
