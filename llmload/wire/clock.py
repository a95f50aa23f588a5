"""The kernel's stamps of arrival, taken by the wall clock, as readings of the monotonic clock."""

import time
from collections.abc import Callable
from typing import Final

_STEP_NS: Final = 20_000
"""Both clocks are slewed alike, so their distance changes only by steps; less than this is noise of reading them."""


class ArrivalClock:
    """
    Turns wall-clock stamps into monotonic ones; `sample()` before each batch of reads, then `monotonic_ns(stamp)`.

    While the wall clock does not jump, `offset_ns` is one constant, so gaps between stamps are the kernel's to the
    nanosecond. In the batch that follows a jump, a stamp may have been taken before or after it: the reading that
    lies between the batch before and now is the right one.
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
        self._offset_before_ns = 0
        self._sampled_before_ns = 0
        self.restart()

    def restart(self) -> None:
        """Forget the past: a jump of the wall clock while nobody read is none."""
        _, self.offset_ns = min(self._distance() for _ in range(16))
        self._offset_before_ns = self.offset_ns
        self._sampled_before_ns = self.now_ns
        self.stepped = False

    def sample(self) -> None:
        """Read both clocks for the batch of reads that follows."""
        self._sampled_before_ns = self.now_ns
        if self.stepped:
            self._offset_before_ns = self.offset_ns
            self.stepped = False
        width_ns, offset_ns = self._distance()
        if abs(offset_ns - self.offset_ns) > width_ns + _STEP_NS:
            _, offset_ns = min(self._distance() for _ in range(16))
            self._offset_before_ns = self.offset_ns
            self.offset_ns = offset_ns
            self.stepped = True

    def monotonic_ns(self, stamp_ns: int) -> int:
        """Return a wall-clock stamp as a reading of the monotonic clock."""
        arrived_ns = stamp_ns + self.offset_ns
        if not self.stepped or self._plausible(arrived_ns):
            return arrived_ns
        before_ns = stamp_ns + self._offset_before_ns
        return before_ns if self._plausible(before_ns) else self.now_ns

    def _plausible(self, arrived_ns: int) -> bool:
        return self._sampled_before_ns - _STEP_NS <= arrived_ns <= self._monotonic()

    def _distance(self) -> tuple[int, int]:
        before_ns = self._monotonic()
        wall_ns = self._realtime()
        self.now_ns = self._monotonic()
        return self.now_ns - before_ns, (before_ns + self.now_ns) // 2 - wall_ns
