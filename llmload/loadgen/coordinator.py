"""A run as the node that coordinates it sees it."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from llmload.access.secrecy import masked
from llmload.client.packet_ring import why_unavailable
from llmload.client.settings import EngineInfo
from llmload.errors import ExitCode, RunFolderError
from llmload.loadgen.commanded import EditTimeline, timeline_of
from llmload.loadgen.drivers import driver_of
from llmload.loadgen.judged import edited_load, found_step, stage_totals, whole_run
from llmload.loadgen.phases import PhaseTimeline, Span
from llmload.loadgen.unmeasured import Conditions, rejections, unmeasured_load
from llmload.metrics.checks import failed_requests, health, judge, lengths_missed_by
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Level, Reason, Verdict
from llmload.portable import carried
from llmload.prometheus.scrape import EngineScraper
from llmload.prompts.workload import Workload
from llmload.report.checks import exit_code_of
from llmload.report.conclusion import conclusion
from llmload.runs.build_summary import RunOutcome, StageTotals, Watched, build_summary, memory_estimate
from llmload.runs.folder import ENGINE_METRICS, SUMMARY, LoadEdit, Manifest, RunFolder, RunTimes, StageTimes, new_run_id
from llmload.runs.headline import Headline, unmeasured_phase
from llmload.runs.limits import watched
from llmload.runs.samples import SampledPart, read_samples
from llmload.runs.summary import Summary
from llmload.runs.summary_parts import OtherUsers
from llmload.runs.writing import with_unwritten, write_reasons
from llmload.scenario import Scenario
from llmload.units import NS_PER_S

ENDED_EARLY: Final = "ended_early"
"""The check whose reason says that the run was ended before it had done what it was to do."""
LIMIT_MARGIN_S: Final = 1.0
"""How much earlier than its time limit a load may seem to end: Locust's clock starts a little before ours."""
INTERNAL_ERROR: Final = "internal_error"
"""The check whose reason says that something of llmload or of the locustfile failed beside requests."""


logger = logging.getLogger(__name__)


def _span(start_s: float | None, length_s: float | None) -> tuple[float, float] | None:
    return None if start_s is None or length_s is None else (start_s, start_s + length_s)


class RunCoordinator:
    """One run as seen by the node that started it: its folder, its verdict, its exit code."""

    def __init__(
        self,
        *,
        scenario: Scenario,
        scenario_file: Path,
        workload: Workload,
        deployment: EngineInfo | None,
        workers: int,
        limit_is_option: bool = False,
        users_vary: bool = False,
    ) -> None:
        self.scenario = scenario
        self.run_id = new_run_id(scenario.scenario.name)
        self.folder = RunFolder(Path(scenario.run.folder) / self.run_id)
        self.span = Span(scenario.load)
        self.summary: Summary | None = None
        self.timeline = timeline_of(scenario.load, self.span.start_ns)
        self.driver = driver_of(self.timeline, scenario)
        self.ending = False
        """Whether the load has ended, so that nothing of it can be edited any more."""
        self.current = scenario
        """The scenario with the load as it was last edited."""
        self.ends_s = scenario.load.ends_after_s
        """When the load ends, in seconds since the start; None where no time ends it."""
        self._edits: list[LoadEdit] = []
        self._judged: Headline | None = None
        self.conditions = Conditions()
        self._deployment = deployment
        self._ended_ns: int | None = None
        self._load_over_s: float | None = None
        self.users_vary = users_vary
        """Whether not every user has a request in flight all the time: a locustfile's own tasks."""
        self._limit_is_option = limit_is_option
        """Whether the load's time limit is `--run-time` alone, which the scenario does not have."""
        self._asked_s = scenario.load.asked_s(scenario_file.parent)
        self.started_unix_s = time.time()
        self._unix_offset_ns = time.time_ns() - time.monotonic_ns()
        self._noted_users: int | None = None
        self.ended_unix_s: float | None = None
        engine = scenario.engine
        self.engine_scraper = EngineScraper(
            scenario.monitor,
            self.folder,
            ca_file=engine.ca_file,
            verify_tls=engine.verify_tls,
            engine_urls=engine.base_url,
            access=scenario.access(),
        )
        self.memory_estimate = memory_estimate(scenario)
        self._manifest = Manifest.at_start(
            run_id=self.run_id,
            started_unix_s=self.started_unix_s,
            scenario=scenario,
            scenario_file=scenario_file,
            workload=workload,
            engine=None if deployment is None else deployment.to_dict(),
            simulated=self.simulated,
            workers=workers,
            command=carried(masked(["locust", *sys.argv[1:]])),
            no_packet_ring=why_unavailable(),
        )

    @property
    def simulated(self) -> bool:
        """Whether the run measures a simulation."""
        return self.scenario.engine.name == "simulated" or bool(self._deployment and self._deployment.simulated)

    @property
    def engine_version(self) -> str | None:
        """The engine's version: what the engine says, or else the scenario."""
        own = None if self._deployment is None else self._deployment.version
        return own or self.scenario.deployment.engine_version

    @property
    def stage(self) -> str:
        """What the run does now: a stage's name, or `warm-up`, `measuring`, `draining`, `ended`."""
        if self.summary is not None:
            return "ended"
        window, now_ns = self.span.window, time.monotonic_ns()
        if self.ending or window.end_ns is not None:
            return "draining"
        if self.driver is not None and self.driver.finished:
            return "draining"
        if self.timeline is not None:
            name = self.timeline.name_of(self.timeline.index)
            if self.is_edited:
                opened = self.timeline.window(self.timeline.index).start_ns is not None
                return f"{name}, {self.current.load.brief}{'' if opened else ', warm-up'}"
            return name if self.driver is None else f"{name}, {self.driver.text}"
        return "measuring" if window.start_ns is not None and now_ns >= window.start_ns else "warm-up"

    @property
    def rate_per_s(self) -> float | None:
        """The target rate of this moment over all processes; None for a load without one."""
        return self.scenario.load.constant_rate_per_s if self.timeline is None else self.timeline.rate_per_s

    @property
    def elapsed_s(self) -> float:
        """How long the run has taken so far, drain included."""
        return ((self._ended_ns or time.monotonic_ns()) - self.span.start_ns) / NS_PER_S

    def open_folder(self) -> None:
        """Make the run folder with its manifest, so that a run that crashes can still be read; RunFolderError."""
        self.folder.begin(self._manifest.with_times(self._times(), None))

    def end_load(self) -> None:
        """End the load: the window and the last phase are over; only the first call counts."""
        if self._load_over_s is None:
            self.ending, self._load_over_s = True, self.elapsed_s
            self.span.close()
            if self.timeline is not None:
                self.timeline.end()

    def note_times(self) -> None:
        """Write when window and stages began into the manifest, so that a run that crashes can still be judged."""
        self.folder.note_manifest(self.manifest)

    @property
    def manifest(self) -> Manifest:
        """The manifest with what is known by now."""
        return self._manifest.with_times(self._times(), self.ended_unix_s, self._edits)

    @property
    def is_edited(self) -> bool:
        """Whether the load was edited, so that it has phases which are measured by themselves."""
        return isinstance(self.timeline, EditTimeline)

    def note_edits(self, edited: Scenario, edits: Iterable[LoadEdit]) -> None:
        """Note how the load is edited, in the manifest too."""
        self.current = edited
        self._edits += edits
        self.note_times()

    def divide(self, totals: RunTotals) -> None:
        """Measure by itself what comes before the load's first edit, which is now; a later edit changes nothing."""
        if self.timeline is None:
            opened_ns = self.span.opened_ns(totals) if self.conditions.reached_phases else None
            self.timeline = EditTimeline.at_edit(self.scenario.load, self.span.start_ns, opened_ns)

    def note_users(self, users: int) -> None:
        """Write down how many users run, if that has changed."""
        if users != self._noted_users:
            self._noted_users = users
            self.folder.append_users(time.time(), users)

    def headline_so_far(self, totals: RunTotals, stages: Callable[[], Mapping[str, RunTotals]]) -> Headline:
        """Return what is judged of a run in progress: all of it, of an edited load the last phase that is measured."""
        return self._headline(totals, stages()) if self.is_edited else whole_run(self.span, totals, self.scenario)

    def _headline(self, totals: RunTotals, stages: Mapping[str, RunTotals]) -> Headline:
        if self.driver is not None:
            return found_step(self.driver, totals, stages, self.scenario, self._unix_s)
        if isinstance(self.timeline, EditTimeline):
            return edited_load(self.timeline, totals, stages, self.scenario, self._unix_s)
        return whole_run(self.span, totals, self.scenario)

    @property
    def conclusion(self) -> str | None:
        """What the run found, in a sentence; None until it has ended."""
        return None if self.summary is None else conclusion(self.summary)

    def verdict_so_far(self, headline: Headline) -> Verdict:
        """Judge the run as far as it has come: nothing need be measured yet."""
        return self._verdict(headline) if self.summary is None else self.summary.verdict

    def _verdict(
        self,
        headline: Headline,
        totals: RunTotals | None = None,
        stages: Mapping[str, RunTotals] | None = None,
        names: Mapping[str, RunTotals] | None = None,
    ) -> Verdict:
        """Judge what the headline is of; with totals and stages as they ended, something must be measured."""
        further = [Reason(check=INTERNAL_ERROR, level=Level.INVALID, text=text) for text in self.conditions.faults]
        further += rejections(self.conditions)
        further += write_reasons(headline.totals, self.folder.faults.unwritten)
        cut = None if totals is None else self.ended_early(totals)
        if cut is not None:
            further.append(Reason(check=ENDED_EARLY, level=Level.INVALID, text=cut))
        if not headline.health.completed and not headline.health.failed:
            text = "no request came to an end, so nothing was measured"
            if not cut and not headline.health.censored:  # else the drain, not the load, was too short
                text += f": give {self.scenario.load.longer}"
            further.append(Reason(check="answers", level=Level.INVALID, text=text))
        elif headline.edited is not None and stages is not None:
            further += unmeasured_phase(headline, headline.edited, self.scenario.load.longer)
        elif totals is not None and stages is not None and cut is None:  # a cut run says that first
            further += self._unmeasured(totals, stages)
        verdict = judge(
            self._health(headline),
            [*failed_requests(headline.health), *lengths_missed_by(names or {}), *further],
            totals=headline.health,
            relied_on=self.scenario.relied_on,
            gates=() if cut else self.scenario.gates.parsed(),  # a cut run's gates are not judged
        )
        # without a window there are no figures that could be in doubt, as in a search that found none
        return verdict if headline.window_s is not None else verdict.model_copy(update={"doubts": ()})

    def _unmeasured(self, totals: RunTotals, stages: Mapping[str, RunTotals]) -> Iterator[Reason]:
        if self.driver is not None:
            return self.driver.unmeasured(stages)
        return unmeasured_load(self.scenario.load, self.span, self.conditions, self.timeline, totals, stages)

    def ended_early(self, totals: RunTotals) -> str | None:
        """Return what ended the run after how much of what the load was to do; None where it had done all of that."""
        by, ended_s = self.conditions.ended_by, self._load_over_s
        if by is None and self._limit_is_option and ended_s is not None:
            limit_s = self.ends_s or 0.0
            by, ended_s = ("--run-time", 0.0) if ended_s > limit_s - LIMIT_MARGIN_S else (None, None)
        if by is None or ended_s is None:
            return None
        if self.driver is not None:
            undone = self.driver.undone
        else:
            sent, answered = totals.started, totals.completed + totals.failed
            is_edited = self.ends_s != self.scenario.load.ends_after_s
            asked_s = self.ends_s if is_edited else self._asked_s
            undone = self.current.load.undone(sent=sent, answered=answered, after_s=ended_s, asked_s=asked_s)
        place = "" if self.timeline is None else self.timeline.place
        return None if undone is None else f"{by} ended the run after {undone}{place}"

    def note_all_users(self) -> None:
        """Note that all users of the load, or of its current phase, run."""
        self.conditions.reached_phases.add(0 if self.timeline is None else self.timeline.index)

    def _health(self, headline: Headline) -> dict[str, float | None]:
        figures = health(headline.health)
        prompts = self.scenario.prompts
        if prompts.repeats_are_new or figures["cached_token_share"] is not None:
            figures["reused_prompt_share"] = None  # no prompt is old to a cache, or how many tokens are is known
        if prompts.salt == "request":
            figures["cached_token_share"] = None  # the chat template's own text, which every request begins with
        return {
            **figures,
            "concurrency_shortfall": self._shortfall(headline),
            "window_edges": self._edges(headline),
            **self.conditions.figures(),
        }

    def _shortfall(self, headline: Headline) -> float | None:
        """
        Return how far the mean in flight fell short of the users; None where it was not asked to be held.

        None, too, where something else is the reason: a worker is missing, or no answer ended in the window, since
        users pause after a failure.
        """
        if self.conditions.missing_workers:
            return None
        users, window_s = self._busy_users(headline), headline.window_s
        if users is None or self.span.window.end_ns is None or not window_s or not headline.totals.completed_in_window:
            return None
        return 1 - headline.totals.busy_s / (users * window_s)

    def _edges(self, headline: Headline) -> float | None:
        """
        Return how many answers the window's edges cut, as a part of those that ended in it; None if it is not known.

        At each edge a user waits for one: of these one counts whole and one not at all, so a rate may be that far off.
        """
        users, answers = self._busy_users(headline), headline.totals.completed_in_window
        return None if users is None or not answers else users / answers

    def _busy_users(self, headline: Headline) -> int | None:
        """Return how many users have a request in flight all the time; None where that is not known."""
        return None if self.users_vary else headline.scenario.load.busy_users

    def finish(
        self,
        totals: RunTotals,
        stages: Mapping[str, RunTotals],
        lines: Mapping[str, int],
        *,
        names: Mapping[str, RunTotals] | None = None,
        other_users: OtherUsers | None = None,
    ) -> Summary:
        """
        Write manifest and summary of the run, and return the summary; `lines` is how many each request file has.

        The manifest comes first, so that the verdict names it if it cannot be written.
        """
        self._ended_ns = time.monotonic_ns()
        judged = self._judged = self._headline(totals, stages)
        self.ended_unix_s = time.time()
        self.folder.settle()
        self.note_times()
        engine_metrics, gpu_metrics = self.engine_scraper.summary(totals, self.memory_estimate)
        engines = self._engine_samples()
        outcome = RunOutcome(
            run_id=self.run_id,
            scenario=judged.scenario,
            simulated=self.simulated,
            totals=totals,
            judged=judged.totals,
            window_s=judged.window_s,
            window_started_unix_s=judged.opened_unix_s,
            verdict=self._verdict(judged, totals, stages, names),
            stages=() if self.timeline is None else tuple(self._watched_stages(self.timeline, stages, engines)),
            watched=self._watched_run(judged, totals, engines),
            names=names or {},
            names_window_s=self.span.length_s(totals),
            edited=judged.edited,
            other_users=other_users,
            engine_metrics=engine_metrics,
            gpu_metrics=gpu_metrics,
            request_files=self.folder.measured(lines),
            cut=self.ended_early(totals) is not None,
        )
        self.summary = build_summary(outcome if self.driver is None else self.driver.complete(outcome, stages))
        self.folder.keep(SUMMARY, self.summary)
        return self.note_unwritten()

    def _engine_samples(self) -> list[SampledPart]:
        """Return what the engines said of themselves, in unix time; nothing where that cannot be read."""
        try:
            return read_samples(self.folder.path, ENGINE_METRICS, 0.0)
        except RunFolderError as error:
            logger.warning("what the engine said in the window is not known: %s", error)
            return []

    def _watched(
        self, engines: Sequence[SampledPart], spans: Sequence[tuple[float, float] | None], totals: RunTotals
    ) -> Watched:
        known = [span for span in spans if span is not None]
        return watched(engines, known, totals, self.scenario, self.conditions.figures()["worker_cpu_share"])

    def _watched_run(self, judged: Headline, totals: RunTotals, engines: Sequence[SampledPart]) -> Watched:
        """Return what was seen in the window of what is judged; several stages together have no limit."""
        found = self._watched(engines, [_span(judged.opened_unix_s, judged.window_s)], judged.totals)
        several = self.timeline is not None and judged.totals is totals
        return replace(found, limit=None) if several else found

    def _watched_stages(
        self, timeline: PhaseTimeline, stages: Mapping[str, RunTotals], engines: Sequence[SampledPart]
    ) -> Iterator[StageTotals]:
        spans: dict[str, list[tuple[float, float]]] = {}
        for times in self._stage_times(timeline):
            if times.window_start_unix_s is not None and times.end_unix_s is not None:
                spans.setdefault(times.name, []).append((times.window_start_unix_s, times.end_unix_s))
        for stage in stage_totals(timeline, stages):
            yield replace(stage, watched=self._watched(engines, spans.get(stage.name, []), stage.totals))

    def note_unwritten(self) -> Summary:
        """Return the summary of a run that has ended, with what could not be written by now; written again if new."""
        if self.summary is None:
            raise RuntimeError("the run has not ended")
        unwritten = self.folder.faults.unwritten
        verdict = with_unwritten(self.summary.verdict, unwritten)
        if verdict != self.summary.verdict:
            self.summary = self.summary.model_copy(update={"verdict": verdict})
            self.folder.keep(SUMMARY, self.summary, patience_s=0.0)
        return self.summary

    @property
    def summary_is_written(self) -> bool:
        """Whether the run's summary is in its folder."""
        return SUMMARY not in self.folder.faults.unwritten

    def exit_code(self, on_error: int) -> int:
        """
        Return `on_error` where requests failed; 0: good; 1: a gate failed; 3: INVALID, or something of ours failed.

        130: a signal ended it before it had done what it was to do, or cut requests.
        """
        if self.conditions.signalled and (self.summary is None or self._was_cut(self.summary)):
            return ExitCode.INTERRUPTED
        return (
            ExitCode.INVALID if self.summary is None or self.conditions.faults else exit_code_of(self.summary, on_error)
        )

    def _was_cut(self, summary: Summary) -> bool:
        early = any(reason.check == ENDED_EARLY for reason in summary.verdict.reasons)
        return early or (self.conditions.requests_cut and summary.requests.censored > 0)

    def _times(self) -> RunTimes:
        """When window and stages began and end, None for what has not come about or has no set end."""
        clock, (opened_unix_s, closed_unix_s) = self.timeline, self._window_unix_s()
        return RunTimes(
            window_start_unix_s=opened_unix_s,
            window_end_unix_s=closed_unix_s,
            stages=() if clock is None else tuple(self._stage_times(clock)),
        )

    def _window_unix_s(self) -> tuple[float | None, float | None]:
        """Return start and end of the window; where a part of the run is judged, none before the end says which."""
        if self.driver is None and not self.is_edited:
            return self._unix_s(self.span.window.start_ns), self._unix_s(self.span.window.end_ns)
        if self._judged is None or self._judged.opened_unix_s is None:
            return None, None
        return self._judged.opened_unix_s, self._judged.opened_unix_s + (self._judged.window_s or 0.0)

    def _stage_times(self, clock: PhaseTimeline) -> Iterator[StageTimes]:
        for span in clock.spans():
            yield StageTimes(
                name=span.phase.name,
                users=span.phase.users,
                rate_per_s=span.phase.rate_per_s,
                start_unix_s=self._unix_s(span.begin_ns),
                window_start_unix_s=self._unix_s(span.window.start_ns),
                end_unix_s=self._unix_s(span.window.end_ns),
            )

    def _unix_s(self, moment_ns: int | None) -> float | None:
        return None if moment_ns is None else (moment_ns + self._unix_offset_ns) / NS_PER_S
