"""
How the ring's streams are read: promptly, or in bulk where that neither changes the engine nor hides an answer's end.

An engine whose TCP holds a small write back until the last one is acknowledged (Nagle's algorithm) sees late reads:
the kernel acknowledges at once only what is read. Its chunks then share segments, so each engine is first read
promptly, and then some of its streams in bulk beside others that are read promptly, at the same time and load.
"""

from enum import Enum, auto
from typing import Final

from llmload.record import AFTER_ACKNOWLEDGEMENT, AT_ONCE

_LEARNED_GAPS: Final = 300
"""As many gaps between segments are needed to know how an engine sends, in either way of reading."""
_PROMPT_GAPS: Final = 100
_CLEAR_GAPS: Final = 40
"""Fewer are enough where the difference is `_CLEARLY_MORE`, so that a trial disturbs as little as possible."""
_LEARNED_ENDS: Final = 3
_TRIAL_SHARE: Final = 0.1
_MERGED_MORE: Final = 0.03
_CLEARLY_MORE: Final = 0.3
_LONGEST_GAP_NS: Final = 30_000_000
"""Slower streams cost little to read promptly, and an acknowledgement that the kernel delays comes within 40 ms."""
_ENDS: Final = 20
_UNNOTICED_SHARE: Final = 0.1


class Phase(Enum):
    """What is known of an engine."""

    LEARNING = auto()  # it is read promptly
    TRIAL = auto()  # some streams are read in bulk
    BULK = auto()
    PROMPT = auto()  # it is read promptly for good


class _Sent:
    """Segments in the middle of answers, and the chunks that shared one with the chunk before."""

    __slots__ = ("gaps", "merged")

    def __init__(self) -> None:
        self.gaps = self.merged = 0

    @property
    def share(self) -> float:
        return self.merged / max(1, self.gaps + self.merged)


class EnginePace:
    """How one engine is read, by what its answers have shown."""

    def __init__(self) -> None:
        self.phase = Phase.LEARNING
        self.waits_for_acknowledgements = False
        self._learned, self._prompt, self._bulk = _Sent(), _Sent(), _Sent()
        self._span_ns = 0
        self._ends = self._unnoticed = self._in_bulk = 0
        self._low, self._high = 1 << 30, 0

    def may_read_in_bulk(self, streams: int) -> bool:
        """Return whether one more of these streams is read in bulk."""
        trial = self.phase is Phase.TRIAL and self._in_bulk < max(2, _TRIAL_SHARE * streams)
        return (trial or self.phase is Phase.BULK) and self._low <= self._high

    @property
    def learning(self) -> bool:
        """Whether it is not known yet how the engine is to be read."""
        return self.phase in (Phase.LEARNING, Phase.TRIAL)

    @property
    def usual_bytes(self) -> tuple[int, int]:
        """The least and the most payload of a segment with a chunk in the middle of an answer."""
        return self._low, self._high

    @property
    def writes(self) -> str | None:
        """How the engine's TCP sends small writes, one of `ENGINE_WRITES`; None until both ways were compared."""
        if self.waits_for_acknowledgements:
            return AFTER_ACKNOWLEDGEMENT
        return AT_ONCE if self.phase is Phase.BULK else None

    def begin_bulk(self) -> None:
        """Note that a stream is read in bulk."""
        self._in_bulk += 1

    def end_bulk(self) -> None:
        """Note that it is so no longer."""
        self._in_bulk -= 1

    def take_middle(self, sizes: list[int], merged: int, span_ns: int, *, bulk: bool) -> None:
        """
        Note segments in the middle of an answer: their payloads, the chunks that shared one, and from first to last.

        `bulk` is whether they were read so.
        """
        sent = self._bulk if bulk else self._learned if self.phase is Phase.LEARNING else self._prompt
        sent.gaps += len(sizes)
        sent.merged += merged
        if self.phase is Phase.LEARNING:
            self._span_ns += span_ns
            if sizes:
                self._low, self._high = min(self._low, *sizes), max(self._high, *sizes)
            self._end_learning()
        elif self.phase is Phase.TRIAL:
            self._end_trial()
        elif self.phase is Phase.BULK and self._merges_more:  # perhaps the load is another by now: compare again
            self.phase, self._prompt, self._bulk = Phase.TRIAL, _Sent(), _Sent()

    @property
    def _merges_more(self) -> bool:
        return self._bulk.gaps >= _LEARNED_GAPS and self._bulk.share > self._prompt.share + _MERGED_MORE

    def _end_learning(self) -> None:
        if self._learned.gaps < _LEARNED_GAPS or self._ends < _LEARNED_ENDS:
            return
        if self._span_ns / self._learned.gaps > _LONGEST_GAP_NS or self._low > self._high:
            self.phase = Phase.PROMPT
        else:
            self.phase, self._ends = Phase.TRIAL, 0

    def _end_trial(self) -> None:
        prompt = self._prompt if self._prompt.gaps >= _PROMPT_GAPS else self._learned
        more = self._bulk.share - prompt.share
        if more > _CLEARLY_MORE and self._bulk.gaps + self._bulk.merged >= _CLEAR_GAPS:
            self.phase, self.waits_for_acknowledgements = Phase.PROMPT, True
        elif self._bulk.gaps + self._bulk.merged >= _LEARNED_GAPS:
            self.waits_for_acknowledgements = more > _MERGED_MORE
            self.phase = Phase.PROMPT if self.waits_for_acknowledgements else Phase.BULK
            self._prompt, self._bulk = prompt, _Sent()

    def take_end(self, last: int, *, bulk: bool, noticed: bool) -> None:
        """Note the payload of an answer's last segment, which must never look like one in the middle."""
        if self._low <= last <= self._high:
            nearer_low = last - self._low < self._high - last
            self._low, self._high = (last + 1, self._high) if nearer_low else (self._low, last - 1)
        if bulk or self.phase is Phase.LEARNING:
            self._ends += 1
        if self.phase is Phase.LEARNING:
            self._end_learning()
        elif bulk:
            self._unnoticed += not noticed
            if self._ends >= _ENDS and self._unnoticed > _UNNOTICED_SHARE * self._ends:
                self.phase = Phase.PROMPT
