"""The faults, what injects each, and which words count as naming it."""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from benchmarks.tools.faulty_engine import NO_FAULT, Answer, Faults
from benchmarks.tools.work import Work

WORK: Final = Work(streams=8, tokens_per_s=20, tokens=16, ttft_s=0.200, ttft_spread_s=0.020)
REQUESTS: Final = 48
FIFTH: Final = 5
"""Every fifth answer has the fault: 9 or 10 of 48."""
BUSY: Final = 6
"""Processes that take the client's core."""
STEP_S: Final = 5.0
"""How far the clock is set forward."""

_COUNTED: Final = (
    r"(fail\w*|error\w*|unsuccess\w*|exception\w*)\b[^0-9\n]{0,40}[1-9]"
    r"|\b[1-9]\d*\s+(requests?\s+)?(have\s+|had\s+)?(failed|failures?|errors?|errored|unsuccessful)\b(?![=:])"
    r"|Traceback \(most recent"
)
_ENGINE: Final = r"out of memory|Internal ?Server ?Error"
_STATUS: Final = r"(?<![\d.,])500(?![\d.,])"


class Means(Enum):
    """What the benchmark does besides the engine's answers."""

    NONE = "none"
    REFUSE = "the port is closed until the first connection was refused"
    STARVE = "busy processes run on the client's core"
    TWICE = "the tool runs twice, and its second run is judged"
    WARM_UP = "a warm-up longer than the run is requested"
    SIGTERM = "SIGTERM in the middle of the run"
    CLOCK = "the system's clock is set forward in the middle of the run, and back at its end"


@dataclass(frozen=True, slots=True)
class Fault:
    """A row of the table: what goes wrong, and the words by which a tool says so."""

    name: str
    title: str
    says: str
    """A line of a tool's output or report that matches this regular expression names the fault."""
    faults: Faults = NO_FAULT
    means: Means = Means.NONE

    @property
    def pattern(self) -> re.Pattern[str]:
        """The compiled expression; letters of either case match."""
        return re.compile(self.says, re.IGNORECASE)


def _fifth(answer: Answer) -> Faults:
    return Faults(strike=answer, every=FIFTH, first=3)


CONTROL: Final = Fault("none", "no fault", r"(?!)")
FAULTS: Final = (
    Fault("http-500", "20 % HTTP 500", rf"{_COUNTED}|{_ENGINE}|{_STATUS}", _fifth(Answer.HTTP_500)),
    Fault(
        "all-fail",
        "every request fails (HTTP 500)",
        rf"{_COUNTED}|{_ENGINE}|{_STATUS}|no requests? (were |was )?(completed|successful)",
        Faults(strike=Answer.HTTP_500),
    ),
    Fault(
        "refused",
        "first connection refused",
        rf"{_COUNTED}|refused|unreachable|cannot connect|connect(ion)? ?error|connection failed",
        means=Means.REFUSE,
    ),
    Fault(
        "error-event",
        "error event in a stream of status 200 (20 %)",
        rf"{_COUNTED}|{_ENGINE}",
        _fifth(Answer.ERROR_EVENT),
    ),
    Fault(
        "cut",
        "stream cut half way (20 %)",
        rf"{_COUNTED}|incomplete|premature|closed (the )?connection|connection closed|payload|disconnected",
        _fifth(Answer.CUT),
    ),
    Fault("abort", "engine aborts half way (20 %)", rf"{_COUNTED}|\babort(ed|s)?\b", _fifth(Answer.ABORT)),
    Fault(
        "starved",
        f"{BUSY} busy processes on the client's core",
        r"(client|generator|worker|process|event loop|loop|cpu|core|schedul\w*|user)s?\b.{0,80}"
        r"(busy|overload\w*|late\b|lag\w*|delay\w*|starv\w*|saturat\w*|behind|too slow|(9\d|100)(\.\d+)? ?%)"
        r"|(arrived|sent|started) late",
        means=Means.STARVE,
    ),
    Fault(
        "warm-cache",
        "prompts answered from the prefix cache",
        r"cache.{0,80}[1-9]",
        Faults(caching=True),
        Means.TWICE,
    ),
    Fault(
        "early-end",
        "answers end at half the tokens requested",
        r"(short|early|fewer|less|mismatch|below).{0,60}(token|answer|output|length)"
        r"|(token|answer|output|length|osl).{0,60}(short|early|fewer|less|mismatch|below)"
        r"|finish.{0,20}stop",
        Faults(strike=Answer.EARLY),
    ),
    Fault(
        "warm-up",
        "warm-up longer than the run",
        r"warm-?_?up.{0,80}(longer|never|exceed|not|past|over|all|less|smaller|sum|invalid)"
        r"|(nothing|no requests?).{0,40}(measured|complete|success|window)|nothing_measured|Traceback \(most recent",
        means=Means.WARM_UP,
    ),
    Fault(
        "sigterm",
        "SIGTERM in the middle",
        r"SIGTERM|\binterrupt\w*|terminat\w*|cancel\w*|ended.{0,20}early|\bcut\b|incomplete",
        means=Means.SIGTERM,
    ),
    Fault(
        "clock",
        f"clock set forward {STEP_S:.0f} s during the run",
        r"clock.{0,60}(step|jump|chang|moved|was set)|(step|jump)\w*.{0,40}clock",
        means=Means.CLOCK,
    ),
)
