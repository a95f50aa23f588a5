"""CPU time by the kernel's counters: of the whole machine, and of a process."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
STAT: Final = Path("/proc/stat")
IDLE_LOOK_S: Final = 5.0
"""Long enough that a tick of 10 ms is 0.2 % of a core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineTime:
    """What all cores together have done since the machine started."""

    busy_s: float
    """User, nice, system and both kinds of interrupts; guests are a part of user."""
    stolen_s: float
    """Kept from the machine by its host: nothing was done in it."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what /proc/stat says; ValueError if its first line is not that of all cores."""
        name, *ticks = text.split("\n", 1)[0].split() or [""]
        if name != "cpu" or len(ticks) < 8:
            raise ValueError(f"not the first line of /proc/stat: {text[:80]!r}")
        user, nice, system, _idle, _iowait, irq, softirq, steal = (int(each) / TICKS_PER_S for each in ticks[:8])
        return cls(busy_s=user + nice + system + irq + softirq, stolen_s=steal)

    @classmethod
    def now(cls) -> Self:
        """Return it so far."""
        return cls.parse(STAT.read_text(encoding="ascii"))

    def since(self, earlier: "MachineTime") -> "MachineTime":
        """Return what was done between two moments."""
        return MachineTime(busy_s=self.busy_s - earlier.busy_s, stolen_s=self.stolen_s - earlier.stolen_s)


def idle_cores(look_s: float = IDLE_LOOK_S) -> float:
    """Return how many cores the machine uses while the benchmark waits for `look_s`."""
    before, before_s = MachineTime.now(), time.monotonic()
    time.sleep(look_s)
    return MachineTime.now().since(before).busy_s / (time.monotonic() - before_s)


def process_time_s(pid: int) -> float:
    """Return the CPU time of a process and its threads so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S
