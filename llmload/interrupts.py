"""
SIGINT, SIGTERM and SIGHUP before a process has begun its work: one line and exit code 130, whatever it is doing.

Python raises KeyboardInterrupt wherever the process happens to be: in the middle of an import, that is a traceback, or
an error of the library that is being imported. So a command calls `end_at_signals` first of all. Only the standard
library is imported here, and little of it.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED: Final = 130
"""`ExitCode.INTERRUPTED`, which takes longer to import."""
BEFORE_A_RUN: Final = "before the run began: nothing was sent"

_undone: list[tuple[signal.Signals, Any]] = []
"""What each signal did before `end_at_signals`."""


def is_command(name: str) -> bool:
    """Return whether this process is a command: a script of that name, or a package that `python -m` runs."""
    path = sys.argv[0] if sys.argv else ""
    if path == "-m":  # the package is being imported, so its path is not known yet
        return name in sys.orig_argv
    return path.removesuffix("/__main__.py").rpartition("/")[2] == name


def heard() -> tuple[signal.Signals, ...]:
    """Return the signals that end this process: not a SIGHUP that it was started to ignore, as nohup lets it."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return tuple(number for number in SIGNALS if not (is_ignored and number is signal.SIGHUP))


def end_at_signals(when: str = "") -> None:
    """
    From now on, end this process at a signal with a line that says `when`; a process that it forks says nothing.

    Signals that `held` has held back until now count. A SIGHUP that is ignored, as by nohup, stays so.
    """
    process = os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        if os.getpid() == process:
            text = f"llmload: ended by {signal.Signals(number).name}{when and ' '}{when}\n"
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode())
        os._exit(INTERRUPTED)

    for number in heard():
        _undone.append((number, signal.getsignal(number)))
        signal.signal(number, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def raise_at_sigint() -> None:
    """Undo `end_at_signals`, for a command that has something to stop or to write: KeyboardInterrupt at SIGINT."""
    while _undone:
        signal.signal(*_undone.pop())


@contextmanager
def held() -> Iterator[None]:
    """Hold signals back, in what is started or becomes of this process too, until that calls `end_at_signals`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
