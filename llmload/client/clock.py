"""The kernel stamps what arrives by the wall clock; this is what those stamps say on the monotonic clock."""

import time
from collections.abc import Callable
from typing import Final

import numpy as np

from llmload.record import StampArray

_STEP_NS: Final = 20_000
"""Both clocks are slewed alike, so their offset changes only in steps; a smaller change is noise of reading them."""


class ReceiveClock:
    """
    Converts the kernel's wall-clock stamps to the monotonic clock.

    Call `sample()` before each batch of reads, then `monotonic_ns(stamp)`; or behind a batch that came in order, then
    `monotonic_stamps_ns`. While the wall clock does not jump, `offset_ns` is constant, so gaps between stamps are the
    kernel's to the nanosecond. In the batch after a jump, a stamp may have been taken before or after it: the reading
    between the previous batch and now is the right one.
    """

    def __init__(
        self,
        monotonic: Callable[[], int] = time.monotonic_ns,
        realtime: Callable[[], int] = time.time_ns,
    ) -> None:
        self._monotonic = monotonic
        self._realtime = realtime
        self.now_ns = 0
        self.offset_ns = 0
        self.stepped = False
        self.offset_before_ns = 0
        self._sampled_before_ns = 0
        self.restart()

    def restart(self) -> None:
        """Measure the offset again: a jump of the wall clock while nothing was read does not matter."""
        _, self.offset_ns = min(self._distance() for _ in range(16))
        self.offset_before_ns = self.offset_ns
        self._sampled_before_ns = self.now_ns
        self.stepped = False

    def sample(self) -> None:
        """Read both clocks for the batch of reads that follows."""
        self._sampled_before_ns = self.now_ns
        if self.stepped:
            self.offset_before_ns = self.offset_ns
            self.stepped = False
        width_ns, offset_ns = self._distance()
        if abs(offset_ns - self.offset_ns) > width_ns + _STEP_NS:
            _, offset_ns = min(self._distance() for _ in range(16))
            self.offset_before_ns = self.offset_ns
            self.offset_ns = offset_ns
            self.stepped = True

    def monotonic_ns(self, stamp_ns: int) -> int:
        """Return a wall-clock stamp as a reading of the monotonic clock."""
        arrived_ns = stamp_ns + self.offset_ns
        if not self.stepped or self._plausible(arrived_ns):
            return arrived_ns
        before_ns = stamp_ns + self.offset_before_ns
        return before_ns if self._plausible(before_ns) else self.now_ns

    def monotonic_stamps_ns(self, stamps_ns: StampArray) -> StampArray:
        """Return wall-clock stamps, in the order of their arrival, as readings of the monotonic clock."""
        arrived_ns = stamps_ns + self.offset_ns
        if self.stepped:
            arrived_ns[: self._taken_before_jump(stamps_ns)] += self.offset_before_ns - self.offset_ns
        return arrived_ns

    def _taken_before_jump(self, stamps_ns: StampArray) -> int:
        """Return how many of these were: the clock jumped in a gap that runs backwards, else in the longest one."""
        previous_ns, now_ns = self._sampled_before_ns - self.offset_before_ns, self.now_ns - self.offset_ns
        gaps_ns = np.diff(stamps_ns, prepend=previous_ns, append=now_ns)
        jumped_back = self.offset_ns > self.offset_before_ns and gaps_ns.min() < -_STEP_NS
        return int(gaps_ns.argmin() if jumped_back else gaps_ns.argmax())

    def _plausible(self, arrived_ns: int) -> bool:
        return self._sampled_before_ns - _STEP_NS <= arrived_ns <= self._monotonic()

    def _distance(self) -> tuple[int, int]:
        before_ns = self._monotonic()
        wall_ns = self._realtime()
        self.now_ns = self._monotonic()
        return self.now_ns - before_ns, (before_ns + self.now_ns) // 2 - wall_ns
