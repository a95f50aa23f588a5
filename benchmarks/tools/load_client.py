"""What the benchmark needs of a load generator: a command line, and its figures afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.tools.work import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run of one client."""

    work: Work
    requests: int
    base_url: str
    ca_file: Path | None
    model: str
    folder: Path
    """The client's working directory, with its files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A tool's figures by its own definitions; None where it gives none."""

    completed: int
    failed: int = 0
    counted: frozenset[str] | None = None
    """The ids of the requests that its latencies are of; None: all."""
    output_tokens_per_s: float | None = None
    ttft_mean_s: float | None = None
    ttft_p50_s: float | None = None
    ttft_p99_s: float | None = None
    tpot_p50_s: float | None = None
    """Of the time per output token after the first, a mean of each answer."""
    tpot_p99_s: float | None = None
    itl_p50_s: float | None = None
    itl_p99_s: float | None = None
    itl_max_s: float | None = None
    ttft_wire_mean_s: float | None = None
    """From the departure of the request, as a packet log stamps it."""
    coalesced_share: float | None = None
    stamps: str | None = None
    """Where its time stamps come from, in its own word."""
    verdict: str | None = None
    reasons: tuple[str, ...] = ()
    """The checks that speak against the run."""
    doubted: tuple[str, ...] = ()
    """The figures that may be off by the tool's own judgement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program to run, and its environment variables."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


class LoadClient(Protocol):
    """A load generator that the benchmark can drive."""

    @property
    def name(self) -> str:
        """What the table calls it."""

    def missing(self) -> str | None:
        """Return what has to be done before it can run; None if nothing."""

    def command(self, task: Task) -> Command:
        """Write the files that the task needs into its folder, and return how to run it."""

    def reported(self, task: Task) -> Reported:
        """Return the tool's figures, read from the files or output in the task's folder."""
