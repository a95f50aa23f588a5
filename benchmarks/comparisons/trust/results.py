"""What was found, as plain values: the page is made of them."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.comparisons.trust.faults import Fault, Means
from benchmarks.comparisons.trust.judging import Figure, Quote, figures, lines_of, read, said
from benchmarks.comparisons.trust.running import TrustRun
from benchmarks.comparisons.trust.tools import Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A tool's cell of the table: `why_not` where the fault could not be injected, else how the run went."""

    tool: str
    fault: str
    why_not: str | None = None
    exit_code: int | None = None
    """None: it had to be killed."""
    quote: Quote | None = None
    figures: tuple[Figure, ...] = ()
    left_out: tuple[str, ...] = ()
    """Figures that are not judged, since the tool's own differ from the log's without a fault too."""
    command: str = ""

    @property
    def says_so(self) -> bool:
        """Whether its exit code is not 0, or a line names the fault."""
        return self.exit_code != 0 or self.quote is not None

    @property
    def wrong(self) -> tuple[Figure, ...]:
        """The judged figures that are not the log's."""
        return tuple(figure for figure in self.figures if not figure.right and figure.name not in self.left_out)

    @property
    def silent(self) -> bool:
        """Whether a figure is wrong and nothing says so: the worst that can happen."""
        return self.why_not is None and not self.says_so and bool(self.wrong)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Finding":
        """Return what `as_json` has made."""
        given = [Figure(**{**figure, "true": tuple(figure["true"])}) for figure in values["figures"]]
        quote = None if values["quote"] is None else Quote(**values["quote"])
        return cls(**{**values, "figures": tuple(given), "quote": quote, "left_out": tuple(values["left_out"])})


def find(tool: Tool, fault: Fault, run: TrustRun, control: TrustRun | None) -> Finding:
    """Judge a run beside the same tool's run without a fault."""
    if fault.means is Means.TWICE and not any(request.cached for request in run.served):
        return Finding(tool=tool.client.name, fault=fault.name, why_not="its second run sends other prompts")
    usual = [] if control is None else _lines(tool, control)
    quote = said(_lines(tool, run), usual, fault.pattern)
    return Finding(
        tool=tool.client.name,
        fault=fault.name,
        exit_code=run.exit_code,
        quote=quote,
        figures=tuple(_figures(tool, run)),
        left_out=() if control is None else tuple(each.name for each in _figures(tool, control) if not each.right),
        command=shown(tool, run),
    )


def _figures(tool: Tool, run: TrustRun) -> list[Figure]:
    reported = read(lambda: tool.client.reported(run.task))
    return [] if reported is None else figures(run.served, reported, run.task.requests)


def _lines(tool: Tool, run: TrustRun) -> list[Quote]:
    lines = lines_of(run.task.folder, run.output, tool.reports)
    return [Quote(where=line.where, text=_without_paths(line.text, run.task.folder)) for line in lines]


def _without_paths(text: str, folder: Path) -> str:
    return text.replace(f"{folder}/", "").replace(str(folder), ".").replace(f"{ROOT}/", "")


def shown(tool: Tool, run: TrustRun) -> str:
    """Return the command as a user would write it."""
    words: Sequence[str] = run.command.arguments
    if len(words) > 2 and words[1] == "-c" and "\n" in words[2]:  # what starts a tool that has no command
        words = [tool.title, *words[3:]]
    elif words[1:3] == ("-m", "locust"):
        words = words[2:]
    else:
        words = [Path(words[0]).name, *words[1:]]
    return _without_paths(shlex.join(words), run.task.folder).replace(".engines/peers/", "")
