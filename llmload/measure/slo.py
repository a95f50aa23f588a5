"""What counts as a good request."""

from dataclasses import dataclass

from llmload.measure.record import RequestRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Limits of a good request, in seconds; None: no limit."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by name."""
        pairs = {"ttft_s": self.ttft_s, "tpot_s": self.tpot_s, "e2e_s": self.e2e_s}
        return {name: limit for name, limit in pairs.items() if limit is not None}

    def met_by(self, record: RequestRecord) -> bool:
        """Return whether a complete answer came and no limit was passed; a metric that is unknown does not pass."""
        if not record.ok:
            return False
        for name, limit in self.limits.items():
            measured: float | None = getattr(record, name)
            if measured is None:
                if name == "tpot_s" and record.output_tokens is not None and record.output_tokens < 2:
                    continue  # an answer of one token has no time per further token to promise
                return False
            if measured > limit:
                return False
        return True
