"""
The simulated engine's model of time, run in virtual time: a minute of load in a hundredth of a second.

Slots, first-in-first-out queue, TTFT and gaps are those of `llmload.simulator.settings`. A real machine
adds two disturbances of the clock that all requests in flight share: a speed that wanders (an Ornstein-Uhlenbeck
process of its logarithm) and stalls; and, for each request, the wait for the batch's next step.
"""

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from llmload.simulator import SimulationSettings
from llmload.simulator.settings import gap_ns, ttft_ns

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How much a machine's speed varies."""

    wander: float = 0.03
    """Standard deviation of the logarithm of its speed."""
    wander_s: float = 5.0
    """Correlation time of the speed."""
    stalls_per_s: float = 0.05
    stall_s: float = 0.1
    between_runs: float = 0.0
    """Standard deviation of the logarithm of a whole run's speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests in flight or arrivals a second, for `duration_s`."""

    duration_s: float
    users: int | None = None
    rate_per_s: float | None = None


@dataclass(slots=True)
class VirtualRequest:
    """A request: its lengths, and its moments in the engine's time."""

    prompt_id: str
    prompt_tokens: int
    output_tokens: int
    started: float = 0.0
    first: float = 0.0
    progress: float = 0.0
    """Tokens that a request running since the start would have had at this one's first token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Conversion between the engine's time, in which its speed is constant, and wall-clock time."""

    own: Floats
    wall: Floats

    @classmethod
    def disturbed(cls, noise: Noise, length_s: float, slowness: float, rng: np.random.Generator) -> "Clock":
        """Return a clock for twice the length, `slowness` times as slow as the engine's formulas."""
        step_s = 0.05
        steps = int(2 * length_s / step_s) + 1
        memory = np.exp(-step_s / noise.wander_s)
        shocks = rng.normal(0, noise.wander * np.sqrt(1 - memory**2), steps)
        wander, level = np.empty(steps), rng.normal(0, noise.wander)
        for index in range(steps):
            level = memory * level + shocks[index]
            wander[index] = level
        stalled = rng.random(steps) < noise.stalls_per_s * step_s
        wall_s = step_s * slowness * np.exp(wander + rng.normal(0, noise.between_runs))
        wall_s += stalled * rng.exponential(noise.stall_s, steps)
        return cls(own=np.linspace(0.0, steps * step_s, steps + 1), wall=np.concatenate([[0.0], np.cumsum(wall_s)]))

    def to_wall(self, own: Floats) -> Floats:
        """Return wall-clock times of moments in engine time."""
        return np.interp(own, self.own, self.wall)

    def to_own(self, wall: Floats) -> Floats:
        """Return moments in engine time of wall-clock times."""
        return np.interp(wall, self.wall, self.own)


@dataclass(slots=True)
class VirtualEngine:
    """Answers requests in virtual time."""

    settings: SimulationSettings
    load: Load
    clock: Clock
    rng: np.random.Generator
    _path: list[tuple[float, float]] = field(default_factory=list)

    def answer(self, requests: Iterator[VirtualRequest]) -> list[tuple[VirtualRequest, Floats]]:
        """Return every request that was sent, with the wall-clock stamps of its tokens, in seconds from the start."""
        sent = self._run(requests)
        times, progress = (np.array(column) for column in zip(*self._path, strict=True))
        answered = []
        for request in sent:
            own = np.interp(request.progress + np.arange(request.output_tokens), progress, times)
            own[0] = request.first
            answered.append((request, self.clock.to_wall(own)))
        return answered

    def _arrivals(self) -> Sequence[float]:
        if self.load.rate_per_s is None:
            return [0.0] * (self.load.users or 0)
        count = int(self.load.duration_s * self.load.rate_per_s * 1.2) + 20
        # A fixed seed: both runs of a pair get the same arrivals, as with one scenario.
        gaps = np.random.default_rng(1).exponential(1 / self.load.rate_per_s, count)
        wall = np.cumsum(gaps)
        return [float(t) for t in self.clock.to_own(wall[wall < self.load.duration_s])]

    def _run(self, requests: Iterator[VirtualRequest]) -> list[VirtualRequest]:
        end = float(self.clock.to_own(np.array([self.load.duration_s]))[0])
        arrivals = deque(self._arrivals())
        waiting: deque[VirtualRequest] = deque()
        first: list[tuple[float, int, VirtualRequest]] = []
        last: list[tuple[float, int, VirtualRequest]] = []
        sent: list[VirtualRequest] = []
        now = progress = 0.0
        running = order = 0
        while arrivals or first or last:
            gap_s = gap_ns(self.settings, running) / 1e9
            finish = now + max(0.0, last[0][0] - progress) * gap_s if last else np.inf
            moment = min(arrivals[0] if arrivals else np.inf, first[0][0] if first else np.inf, finish)
            progress, now = progress + (moment - now) / gap_s, moment
            self._path.append((now, progress))
            if arrivals and arrivals[0] <= now:
                arrivals.popleft()
                request = next(requests)
                request.started = now
                sent.append(request)
                waiting.append(request)
            elif first and first[0][0] <= now:
                _, number, request = heapq.heappop(first)
                request.first, request.progress = now, progress
                heapq.heappush(last, (progress + request.output_tokens - 1, number, request))
            else:
                heapq.heappop(last)
                running -= 1
                if self.load.users is not None and now < end:
                    arrivals.append(now)
            while waiting and running < self.settings.slots:
                request = waiting.popleft()
                running, order = running + 1, order + 1
                due = now + float(self.rng.uniform(0, gap_s)) + ttft_ns(self.settings, request.prompt_tokens) / 1e9
                heapq.heappush(first, (due, order, request))
        return sent
