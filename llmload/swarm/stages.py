"""A staged load on one process's clock: which stage it is, and which part of it is judged."""

from llmload.measure.record import NS_PER_S
from llmload.measure.totals import Window
from llmload.scenario.loads import Staged


class StageClock:
    """Stages of a load that began at `start_ns`, one after the other."""

    def __init__(self, load: Staged, start_ns: int) -> None:
        self.load, self._start_ns = load, start_ns
        self._ends_s: list[float] = []
        for stage in load.stages:
            self._ends_s.append((self._ends_s[-1] if self._ends_s else 0.0) + stage.duration_s)

    def place_at(self, moment_ns: int) -> int:
        """Return the place of the stage at a moment; the last one's when all are over."""
        elapsed_s = (moment_ns - self._start_ns) / NS_PER_S
        return next((place for place, end_s in enumerate(self._ends_s) if elapsed_s < end_s), len(self._ends_s) - 1)

    def name_at(self, moment_ns: int) -> str:
        """Return the name of the stage at a moment."""
        return self.load.name_of(self.place_at(moment_ns))

    def rate_per_s_at(self, moment_ns: int) -> float:
        """Return the arrival rate asked for at a moment; 0 where the stage asks for users."""
        return self.load.stages[self.place_at(moment_ns)].rate_per_s or 0.0

    def window(self, place: int) -> Window:
        """Return the judged part of a stage: all but its warm-up."""
        begin_s = self._ends_s[place] - self.load.stages[place].duration_s + self.load.warmup_s
        return Window(start_ns=self._at(begin_s), end_ns=self._at(self._ends_s[place]))

    def window_s(self, place: int) -> float:
        """Return how long a stage is judged, in seconds."""
        return self.load.stages[place].duration_s - self.load.warmup_s

    def _at(self, elapsed_s: float) -> int:
        return self._start_ns + round(elapsed_s * NS_PER_S)
