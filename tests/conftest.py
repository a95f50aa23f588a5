"""
What applies to every test.

A test marked `timing` compares times. It runs once; only where it fails while a probe shows that the machine was too
busy to keep times, it runs again, twice at most. The last lines of a run say how often that happened.

With CI set in the environment, a skipped test is a failure: what a test needs is installed there.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from typing import Self

import pytest
from _pytest.runner import runtestprotocol
from hypothesis import settings

# A busy machine is not a failure; `python -m benchmarks.fuzz` tries more examples.
settings.register_profile("llmload", deadline=None, max_examples=50)
settings.load_profile("llmload")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background of a script, where Ctrl-C is ignored:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what tests start would inherit it, and never end by it
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # started by nohup: the same
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

NOISY_S = 0.004
"""A machine is too busy to compare times on where a sleep of 5 ms ends this late, 99th percentile."""
REPEATS = 2
PROBE = """
import signal, sys, time
late_s, end = [], []
signal.signal(signal.SIGTERM, lambda *_: end.append(True))
while not end:
    due_s = time.monotonic() + 0.005
    time.sleep(0.005)
    late_s.append(time.monotonic() - due_s)
print(sorted(late_s)[int(len(late_s) * 0.99)] if late_s else 0.0)
"""


class Probe:
    """Measures how late a process wakes up while a test runs."""

    late_p99_s = 0.0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen([sys.executable, "-I", "-S", "-c", PROBE], stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        said, _error = self._process.communicate()
        self.late_p99_s = float(said or 0)


class Timing:
    """The timing tests of a run, and why some were repeated."""

    def __init__(self) -> None:
        self.tests = 0
        self.repeated: list[str] = []


SKIPPED_IN_CI = 6
"""None of pytest's own exit codes: a test that failed may pass when it is tried alone, one that was skipped may not."""

TIMING = pytest.StashKey[Timing]()
SKIPPED = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TIMING], config.stash[SKIPPED] = Timing(), []


def run_once(item: pytest.Item, nextitem: pytest.Item | None) -> tuple[list[pytest.TestReport], Probe]:
    item._initrequest()  # type: ignore[attr-defined]  # fresh fixtures; pytest has no public way
    with Probe() as probe:
        return runtestprotocol(item, nextitem=nextitem, log=False), probe


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if item.get_closest_marker("timing") is None:
        return None
    timing = item.config.stash[TIMING]
    timing.tests += 1
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for left in range(REPEATS, -1, -1):
        reports, probe = run_once(item, nextitem)
        if not left or probe.late_p99_s <= NOISY_S or not any(report.failed for report in reports):
            break
        timing.repeated.append(f"{item.nodeid}: wake-ups were {probe.late_p99_s * 1000:.0f} ms late")
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        item.config.stash[SKIPPED].append(item.nodeid)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("CI") and session.config.stash[SKIPPED] and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = SKIPPED_IN_CI


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    timing, skipped = config.stash[TIMING], config.stash[SKIPPED]
    if timing.tests:
        limit = f"limit {NOISY_S * 1000:.0f} ms"
        terminalreporter.write_line(f"timing: {timing.tests} tests, {len(timing.repeated)} repeats ({limit})")
        for line in timing.repeated:
            terminalreporter.write_line(f"  repeated: {line}")
    if os.environ.get("CI") and skipped:
        terminalreporter.write_line(f"CI is set, so {len(skipped)} skipped tests are a failure:", red=True)
        for node in skipped:
            terminalreporter.write_line(f"  skipped: {node}")
