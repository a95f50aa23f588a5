"""What was judged as JUnit's XML, which CI systems show as tests."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from llmload.errors import RunFolderError


class Judgement(StrEnum):
    """What came of a check, in the words of its report."""

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"  # JUnit's error: neither passed nor failed, and someone has to look
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was judged: its name, what came of it, and the line that says why."""

    name: str
    judgement: Judgement
    text: str


def write_junit(file: Path, suites: Iterable[tuple[str, Iterable[Check]]]) -> None:
    """Write checks as JUnit's XML, a test suite for each named group; RunFolderError if the file cannot be written."""
    document = JUnitXml("llmload")
    for name, checks in suites:
        suite = TestSuite(name)
        suite.add_testcases([_case(name, check) for check in checks])
        document.add_testsuite(suite)
    try:
        document.write(str(file), pretty=True)
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be written: {error.strerror}") from None


def _case(suite: str, check: Check) -> TestCase:
    case = TestCase(check.name, f"llmload.{suite}", 0.0)
    kinds = {Judgement.FAILED: Failure, Judgement.UNDECIDED: Error, Judgement.SKIPPED: Skipped}
    kind = kinds.get(check.judgement)
    if kind is None:
        case.system_out = check.text
    else:
        case.result = [kind(check.text, check.judgement.value)]
    return case
