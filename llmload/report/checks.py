"""The checks of a run: its measurement, requests, capacity search and gates; what fails a pipeline; JUnit XML."""

import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from llmload.capacity.result import capacity_text
from llmload.errors import ExitCode, RunFolderError
from llmload.metrics.validity import Level
from llmload.report.conclusion import conclusion
from llmload.report.figures import doubt_lines
from llmload.runs.folder import Manifest
from llmload.runs.summary import Summary
from llmload.runs.writing import UNWRITTEN_FILES


class Judgement(StrEnum):
    """The outcome of a check."""

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"  # an error in JUnit: someone has to look
    SKIPPED = "skipped"


GATE_JUDGEMENTS: Final = {True: Judgement.PASSED, False: Judgement.FAILED, None: Judgement.SKIPPED}
"""By whether the gate was passed; None: the run was cut, so it was not judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A check's name, its outcome, and a line with the reason."""

    name: str
    judgement: Judgement
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Checks that belong together, and of what they are: a run, or a comparison."""

    name: str
    checks: Sequence[Check]
    started_unix_s: float | None = None
    length_s: float = 0.0
    properties: Mapping[str, str] = field(default_factory=dict)


def run_suite(name: str, summary: Summary, manifest: Manifest | None) -> Suite:
    """Return a run's checks with its times, what was run and its main figures; `manifest` is None where it is lost."""
    started_s = None if manifest is None else manifest.started_unix_s
    ended_s = None if manifest is None else manifest.ended_unix_s
    return Suite(
        name=name,
        checks=run_checks(summary),
        started_unix_s=started_s,
        length_s=0.0 if started_s is None or ended_s is None else max(0.0, ended_s - started_s),
        properties=_properties(summary, manifest),
    )


FIGURES: Final = (
    "requests_per_min",
    "output_tokens_per_s",
    "request_output_tokens_per_s mean",
    "ttft_s p50",
    "ttft_s p95",
)
"""The figures among a suite's properties: keys and statistics of summary.json."""


def _properties(summary: Summary, manifest: Manifest | None) -> dict[str, str]:
    """What was run and found; without what is not known."""
    engine = None if manifest is None else manifest.engine
    found = {
        "run": summary.run_id,
        "scenario": summary.scenario,
        "model": summary.model,
        "engine": summary.engine,
        "engine_version": engine and engine.version,
        "load": summary.load.text,
        "seed": None if manifest is None else str(manifest.seed),
        "command": None if manifest is None else shlex.join(manifest.command),
        "verdict": str(summary.verdict.level),
        "conclusion": conclusion(summary),
    }
    for name in FIGURES:
        key, _, statistic = name.partition(" ")
        value = summary.value(key, statistic or None)
        found[name] = None if value is None else f"{value:.6g}"
    return {name: value for name, value in found.items() if value}


def write_junit(file: Path, suites: Iterable[Suite]) -> None:
    """Write checks as JUnit XML, a test suite per group; RunFolderError if the file cannot be written."""
    document = JUnitXml("llmload")
    for each in suites:
        suite = TestSuite(each.name)
        for name, value in each.properties.items():
            suite.add_property(name, value)
        # the first check is of the measurement, which took all the time; the others only read its figures
        lengths_s = (each.length_s, *(0.0 for _ in each.checks))
        suite.add_testcases([_case(each.name, *of) for of in zip(each.checks, lengths_s, strict=False)])
        if each.started_unix_s is not None:
            suite.timestamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(each.started_unix_s))
        document.add_testsuite(suite)
    try:
        document.write(str(file), pretty=True)
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be written: {error.strerror}") from None


def _case(suite: str, check: Check, length_s: float) -> TestCase:
    case = TestCase(check.name, f"llmload.{suite}", round(length_s, 3))
    kinds = {Judgement.FAILED: Failure, Judgement.UNDECIDED: Error, Judgement.SKIPPED: Skipped}
    kind = kinds.get(check.judgement)
    if kind is None:
        case.system_out = check.text
    else:
        case.result = [kind(check.text, check.judgement.value)]
    return case


def failed(summary: Summary) -> bool:
    """
    Return whether a run fails a pipeline: a gate failed, requests were cut, or failed and no gate limits `error_share`.

    A capacity search fails if it found none; requests that fail or are cut beyond the capacity are expected.
    """
    return _failed_requests(summary) or _fell_short(summary)


def exit_code_of(summary: Summary, on_error: int = ExitCode.FAILED) -> int:
    """
    Return 0 for a good run, 3 for an INVALID one, 1 where a gate failed, requests were cut, or a file lacks something.

    Where nothing but requests failed, those of other users too, it is `on_error`: Locust's `--exit-code-on-error`.
    """
    if summary.verdict.level is Level.INVALID:
        return ExitCode.INVALID
    unwritten = any(reason.check == UNWRITTEN_FILES for reason in summary.verdict.reasons)
    if unwritten or _fell_short(summary):
        return ExitCode.FAILED
    others_failed = summary.other_users is not None and not summary.other_users.all_good
    return on_error if others_failed or _failed_requests(summary) else ExitCode.GOOD


def _fell_short(summary: Summary) -> bool:
    """Whether a run did less than it was to: a gate failed, requests were cut, or a search found nothing."""
    missed = any(gate.passed is False for gate in summary.gates)
    return missed or _cut_requests(summary) or _found_nothing(summary)


def _failed_requests(summary: Summary) -> bool:
    gated = any(gate.objective.split()[0] == "error_share" for gate in summary.gates)
    return bool(summary.requests.failed) and not gated and summary.capacity is None


def _cut_requests(summary: Summary) -> bool:
    return bool(summary.requests.censored) and summary.capacity is None


def _found_nothing(summary: Summary) -> bool:
    return summary.capacity is not None and summary.capacity.passes is None


def _capacity_checks(summary: Summary) -> list[Check]:
    if summary.capacity is None:
        return []
    judgement = Judgement.FAILED if _found_nothing(summary) else Judgement.PASSED
    return [Check(name="capacity", judgement=judgement, text=capacity_text(summary.capacity))]


def run_checks(summary: Summary) -> list[Check]:
    """Return a run's checks: its measurement, its requests, its capacity search and its gates."""
    verdict, requests = summary.verdict, summary.requests
    invalid = verdict.level is Level.INVALID
    reasons = "; ".join(f"{reason.level}: {reason.text}" for reason in verdict.reasons)
    counts = f"{requests.failed} of {requests.started} failed"
    errors = ", ".join(f"{name} {count}" for name, count in requests.errors.items())
    said = [f"{counts}: {errors}" if errors else counts, *(each.text for each in requests.failures)]
    return [
        Check(
            name="measurement",
            judgement=Judgement.UNDECIDED if invalid else Judgement.PASSED,
            text="; ".join([reasons or str(verdict.level), *doubt_lines(summary)]),
        ),
        Check(
            name="requests",
            judgement=Judgement.FAILED if _failed_requests(summary) or _cut_requests(summary) else Judgement.PASSED,
            text="; ".join(said),
        ),
        *_capacity_checks(summary),
        *(
            Check(
                name=gate.objective,
                judgement=GATE_JUDGEMENTS[gate.passed],
                text=gate.text,
            )
            for gate in summary.gates
        ),
    ]
