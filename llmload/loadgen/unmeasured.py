"""What a run has not measured, in the words of the verdict; and what a node notices of a run beside its requests."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from llmload.loadgen.phases import PhaseTimeline, Span
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Level, Reason, nothing_measured
from llmload.scenario.load_protocol import Load
from llmload.units import NS_PER_S


@dataclass(slots=True)
class Conditions:
    """What a node notices of a run beside its requests, for the verdict."""

    missing_workers: set[str] = field(default_factory=set)
    """Lost at some time of the run, whether or not they came back."""
    rejected_workers: dict[str, str] = field(default_factory=dict)
    """Sent what no worker sends, and are heard no longer: each with what that was."""
    late_workers: set[str] = field(default_factory=set)
    """Came after the run's start, and take no part in it."""
    other_version_workers: set[str] = field(default_factory=set)
    """Run another version of llmload than this node."""
    longest_pause_s: float = 0.0
    """How long this node was stopped, or starved of its processor, at a time."""
    worst_cpu_share: float | None = None
    """CPU use of the busiest process that sends, of one core; None until something is measured."""
    ended_by: str | None = None
    """What ended the load, where that was not the load itself: `SIGINT`, `the stop button`."""
    signalled: bool = False
    """A signal came before the run had been counted."""
    requests_cut: bool = False
    """What was in flight was cut at a signal."""
    faults: list[str] = field(default_factory=list)
    """What failed beside requests: each in a line, of a worker with its name."""
    reached_phases: set[int] = field(default_factory=set)
    """The phases whose users all ran at some time, by their index; 0 for a load without phases."""

    def note_pause(self, length_s: float) -> None:
        """Note that this node did nothing for a while."""
        self.longest_pause_s = max(self.longest_pause_s, length_s)

    def note_cpu(self, share: float) -> None:
        """Note the CPU use of the process that is busiest now."""
        self.worst_cpu_share = max(self.worst_cpu_share or 0.0, share)

    def figures(self) -> dict[str, float | None]:
        """Return the figures that the verdict's checks are named after."""
        return {
            "worker_cpu_share": self.worst_cpu_share,
            "missing_workers": float(len(self.missing_workers)),
            "paused_s": self.longest_pause_s,
            "late_workers": float(len(self.late_workers)),
            "other_version_workers": float(len(self.other_version_workers)),
        }


def rejections(conditions: Conditions) -> Iterator[Reason]:
    """Yield which workers were put out, and why."""
    for worker, why in conditions.rejected_workers.items():
        text = f"worker {worker} was put out, and what it counted since its last report is missing: {why}"
        yield Reason(check=REJECTED_WORKERS, level=Level.INVALID, text=f"{text}: see its log, and run again")


REJECTED_WORKERS: Final = "rejected_workers"
"""The check whose reason says that a worker sent what cannot be true, or no message at all."""


def unmeasured_load(
    load: Load,
    span: Span,
    conditions: Conditions,
    timeline: PhaseTimeline | None,
    totals: RunTotals,
    stages: Mapping[str, RunTotals],
) -> Iterator[Reason]:
    """Yield why the window of a load that has ended, or that of a stage, measured nothing or lacked users."""
    ended_ns = span.window.end_ns  # of a counted load it is not set: that one ended with its last answer
    ended_s = (totals.last_done_s or 0.0) if ended_ns is None else (ended_ns - span.start_ns) / NS_PER_S
    remedy = load.longer + (" or --set load.warmup_s=0" if load.warmup_s else "")
    unopened = f"the load ended after {ended_s:.3g} s, before " + (
        "all users ran" if span.window.start_ns is None else f"its warm-up of {load.warmup_s:g} s was over"
    )
    whole = nothing_measured(totals, span.length_s(totals), unopened=unopened, remedy=remedy, where="the window")
    if whole is not None:
        yield whole
    elif ended_s < load.ramp.length_s and not conditions.reached_phases:
        text = f"not all users ran: the load ended after {ended_s:.3g} s, before {load.ramp} was over: give {remedy}"
        yield Reason(check="users_reached", level=Level.INVALID, text=text)
    elif timeline is not None:
        yield from _unmeasured_stages(load, timeline, conditions, stages, remedy)


def _unmeasured_stages(
    load: Load, timeline: PhaseTimeline, conditions: Conditions, stages: Mapping[str, RunTotals], remedy: str
) -> Iterator[Reason]:
    users: int | None = None
    for index, phase in enumerate(timeline.phases):
        began = timeline.begin_ns(index) is not None
        reason = nothing_measured(
            stages.get(phase.name, RunTotals()),
            timeline.window_s(phase.name),
            unopened="it ended before its users ran and had warmed up" if began else "it never began",
            remedy=remedy,
            where=phase.name,
            by_start=load.phases_recur,
        )
        if reason is not None:
            yield reason
        elif phase.users != users and index not in conditions.reached_phases:
            text = f"{phase.name} ended before all its users ({phase.users}) ran: give {remedy}"
            yield Reason(check="users_reached", level=Level.INVALID, text=text)
        users = phase.users
