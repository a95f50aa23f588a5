"""An estimate that says how sure it is: the best figure and the bounds that measured runs stayed within."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its bounds, low <= best <= high, all in the unit of the name it is stored under."""

    low: float
    best: float
    high: float

    @classmethod
    def around(cls, best: float, share: float, least: float = 0.0) -> "Estimate":
        """The best figure give or take a share of it, and no less than `least` in its own unit."""
        margin = max(abs(best) * share, least)
        return cls(best - margin, best, best + margin)

    def __add__(self, other: "Estimate") -> "Estimate":
        """Sum two parts whose errors may fall the same way, as they do when both follow one setting."""
        return Estimate(self.low + other.low, self.best + other.best, self.high + other.high)

    @property
    def figures(self) -> tuple[float, float, float]:
        """Low, best and high."""
        return self.low, self.best, self.high

    def left_of(self, whole: float) -> "Estimate":
        """What is left of a whole when this is taken from it: the more is taken, the less is left."""
        return Estimate(whole - self.high, whole - self.best, whole - self.low)

    def rounded(self, digits: int) -> dict[str, float]:
        """The three figures for JSON."""
        return {"low": round(self.low, digits), "best": round(self.best, digits), "high": round(self.high, digits)}
