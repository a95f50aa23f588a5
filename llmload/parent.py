"""Linux' parent-death signal: what a child gets when its parent has ended, however that ended (prctl(2))."""

import ctypes
import os
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def signal_at_end_of(parent: int, number: int) -> None:
    """Let the kernel send this process a signal when its parent ends; now if that has already ended."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)
