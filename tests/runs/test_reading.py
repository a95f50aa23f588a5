"""Run folders from anywhere: what is not a run's is refused by file, line, key and value, and texts are plain."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from llmload.cli.main import main
from llmload.errors import RunFolderError, plain
from llmload.record import ErrorType, Outcome, RequestError
from llmload.runs.folder import RunFolder
from llmload.runs.reading import MAX_LINE_BYTES, opened, read_columns
from llmload.runs.samples import read_samples
from tests.recorded import records, write_folder


def refusal(run: Path, **changes: Any) -> str:
    """What is said of a run whose second line has these values."""
    file = run / "requests.jsonl"
    lines = file.read_bytes().splitlines()
    lines[1] = orjson.dumps(orjson.loads(lines[1]) | changes)
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    with pytest.raises(RunFolderError) as caught:
        list(read_columns([file]))
    return str(caught.value).removeprefix(str(file))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"e2e_s": "1.5"}, ": line 2: e2e_s is '1.5', not a number from -1e12 to 1e12"),
        ({"done_ns": None}, ": line 2: done_ns is null, not a clock reading in ns"),
        ({"chunks": True}, ": line 2: chunks is True, not a whole number from 0 to 1099511627776"),
        ({"retries": -1}, ": line 2: retries is -1, not a whole number"),
        ({"time_s": 1e300}, ": line 2: time_s is 1e+300, not a unix time from 0 to 4294967296"),
        ({"outcome": "\x1b[31m"}, r": line 2: outcome is '\x1b[31m', not one of"),
        ({"error": []}, ": line 2: error is [], not an object"),
        ({"error": {"type": "reset"}}, ": line 2: error has no 'http_status'"),
        ({"chunk_gaps_ns": [1, 0.5]}, ": line 2: chunk_gaps_ns is 0.5, not a list of whole numbers"),
        ({"chunk_gaps_ns": [1, 2**63]}, ": line 2: chunk_gaps_ns is 9223372036854775808, not"),
        ({"chunk_tokens": 1}, ": line 2: chunk_tokens is 1, not a list"),
    ],
)
def test_a_wrong_value_is_named_by_line_key_and_value(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    assert refusal(write_folder(tmp_path, records(4)), **change).startswith(says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\n" * 10, "line 1 is blank"),
        (b"[1," * MAX_LINE_BYTES, "line 1 has more than 8,000,000 bytes"),
        (b"1,2\n", "line 1 is not JSON"),
        (b"[]\n", "line 1 holds no JSON object"),
    ],
)
def test_other_lines_are_refused(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_bytes(content)

    with pytest.raises(RunFolderError, match=says):
        list(read_columns([file]))


def test_only_a_regular_file_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for file, kind in ((tmp_path / "pipe", "a named pipe"), (tmp_path, "a directory"), (Path("/dev/zero"), "a device")):
        with pytest.raises(RunFolderError, match=f"is {kind}, not a file"), opened(file):
            pass


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("1,u,0,x\n", "line 2: 'a' is 'x', not a number"),
        ("1,u,0,nan\n", "line 2: 'a' is 'nan', not a number"),
        ("1,u,0\n", "line 2 has 3 values for 4 columns"),
        ("9e9,u,0,1\n", "line 2: 'unix_s' is '9e9', not a number from 0"),
        ('1,"u,0,1\n', "line 2 is not CSV"),
    ],
)
def test_a_wrong_sample_is_named(tmp_path: Path, rows: str, says: str) -> None:
    (tmp_path / "s.csv").write_text(f"unix_s,url,part,a\n{rows}")

    with pytest.raises(RunFolderError, match=says):
        read_samples(tmp_path, "s.csv", 0.0)


def test_an_engines_words_control_no_terminal_and_are_xml(tmp_path: Path) -> None:
    words = RequestError(type=ErrorType.RESET, message="\x1b[31mred\x00 \uffff \u202eback", http_status=None)
    of = [replace(each, outcome=Outcome.FAILED, error=words, finish_reason="\x1b]0;t\x07") for each in records(8)]
    run = write_folder(tmp_path / "run", of)

    shown = CliRunner().invoke(main, ["report", str(run), "--junit", str(tmp_path / "x.xml"), "--markdown"])

    assert shown.exit_code == 3, shown.output
    assert "\x1b" not in CliRunner().invoke(main, ["report", str(run)]).output
    assert r"\x1b[31mred\x00 \uffff \u202eback" in (tmp_path / "x.xml").read_text()


def test_plain_texts_stay_as_they_are() -> None:
    assert plain("caf\u00e9 \U0001f600\n\t[bold]<b>") == "caf\u00e9 \U0001f600\n\t[bold]<b>"


def test_brackets_in_names_format_nothing(tmp_path: Path) -> None:
    run = write_folder(tmp_path, records(4))
    manifest = orjson.loads((run / "manifest.json").read_bytes())
    manifest["scenario"]["model"]["name"] = "[bold]m[/nothing]"
    (run / "manifest.json").write_bytes(orjson.dumps(manifest))

    assert "[bold]m[/nothing]" in CliRunner().invoke(main, ["report", str(run)]).output
    assert RunFolder(run).manifest().scenario.model.name == "[bold]m[/nothing]"
