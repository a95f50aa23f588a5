"""A known vulnerability that a release mends fails CI; where no service answers, that is said and nothing fails."""

import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest

from benchmarks.tools import advisories
from benchmarks.tools.advisories import NOT_RUN, main, pins

LOCK = """# a comment, with ==
first==1.0 \\
    --hash=sha256:00
    # via second==2
second==2.0.post1 \\
    --hash=sha256:11
"""


def package(name: str, *faults: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "version": "1.0", "vulns": list(faults)}


def fault(*fixes: str) -> dict[str, Any]:
    return {"id": "PYSEC-1", "fix_versions": list(fixes), "aliases": [], "description": ""}


UNKNOWN = {"name": "second", "skip_reason": "Dependency not found"}


def test_the_pins_of_a_lock_file_are_its_packages() -> None:
    assert pins(LOCK) == ["first==1.0", "second==2.0.post1"]


@pytest.mark.parametrize(
    ("answered", "code", "said"),
    [
        ([package("first"), package("second")], 0, "2 packages looked up, 0 findings"),
        ([package("first", fault("1.1", "2.0"))], 1, "first 1.0: PYSEC-1, mended in 1.1, 2.0: make lock-upgrade"),
        ([package("first", fault())], 0, "first 1.0: PYSEC-1, no release mends it"),
        ([package("first", fault()), package("second", fault("3"))], 1, "second 1.0: PYSEC-1, mended in 3"),
        ([package("first"), UNKNOWN], 0, "second: not known to the advisory service"),
        ([package("first", fault("1.1")), UNKNOWN], 1, "first 1.0: PYSEC-1"),
        ([UNKNOWN], 0, NOT_RUN),
    ],
)
def test_what_the_service_says_decides(
    answered: list[dict[str, Any]],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer(monkeypatch, orjson.dumps({"dependencies": answered, "fixes": []}))

    assert main(lock_in(tmp_path)) == code
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("text", [b"", b"ERROR: no route to host", b"{}", b'{"dependencies": [{}]}'])
def test_no_answer_is_said_in_one_line_and_fails_nothing(
    text: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(monkeypatch, text)

    assert main(lock_in(tmp_path)) == 0
    assert capsys.readouterr().out == f"{NOT_RUN}\n"


def test_a_network_that_swallows_packets_costs_the_time_of_one_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[float] = []

    def swallow(command: list[str], *, timeout: float, **_: Any) -> None:
        waited.append(timeout)
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", swallow)

    assert main(lock_in(tmp_path)) == 0
    assert capsys.readouterr().out == f"{NOT_RUN}\n"
    assert sum(waited) < 10


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ((advisories.PIP_AUDIT[0], "--no-such-option"), subprocess.CalledProcessError),
        (("no-such-pip-audit",), FileNotFoundError),
    ],
)
def test_a_tool_that_fails_to_start_is_not_taken_for_a_silent_network(
    command: tuple[str, ...], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advisories, "PIP_AUDIT", command)

    with pytest.raises(error):
        advisories.ask(["first==1.0"], timeout_s=30.0)


def answer(monkeypatch: pytest.MonkeyPatch, stdout: bytes) -> None:
    """Let pip-audit print this."""
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, stdout=stdout))


def lock_in(folder: Path) -> Path:
    path = folder / "requirements.txt"
    path.write_text(LOCK)
    return path
