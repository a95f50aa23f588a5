"""The memory of cards as a page: a bar a card, in one file that needs no network, script or server."""

import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llmload.errors import ConfigError
from llmload.report.html.assets import PAGE
from llmload.sizing.compare_cards import CardRow, compare_cells
from llmload.sizing.engine_command import command_line, engine_flags
from llmload.sizing.fit import Fit
from llmload.sizing.picture import memory_parts
from llmload.sizing.remedies import remedies
from llmload.sizing.text import fit_notes, fit_terms

_LEVELS: Final = {"fits": "VALID", "may fit": "DEGRADED", "does not fit": "INVALID"}
_ENVIRONMENT: Final = Environment(
    loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def write_memory_page(file: Path, found: Sequence[Fit], rows: Sequence[CardRow] = ()) -> None:
    """Write the page of one fit or of several cards, with the table of rows above; ConfigError where it cannot be."""
    try:
        file.write_text(memory_page(found, rows), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from None


def memory_page(found: Sequence[Fit], rows: Sequence[CardRow] = ()) -> str:
    """Return the page."""
    return _ENVIRONMENT.get_template("memory.html.j2").render(
        title=f"{found[0].deployment.model.name} in memory",
        facts=fit_terms(found[0]),
        table=compare_cells(rows) if rows else None,
        cards=[_card(each) for each in found],
        theme=Markup(_theme()),  # noqa: S704 - our own file
        style=Markup((PAGE / "report.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
        memory_style=Markup((PAGE / "memory.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
        version=version("llmload"),
    )


def _theme() -> str:
    """The report's colours, dark ones where the reader's system asks for them: this page has no switch."""
    theme = (PAGE / "theme.css").read_text(encoding="utf-8")
    return re.sub(r':root\[data-theme="dark"\] (\{[^}]*\})', r"@media (prefers-color-scheme: dark) { :root \1 }", theme)


def _card(found: Fit) -> dict[str, Any]:
    plan = found.deployment
    parts = memory_parts(found)
    whole, memory = sum(part.gib for part in parts), plan.gpu.usable_gib
    low, best, high = found.requests_at_once
    changes = remedies(found)
    return {
        "name": f"{plan.parallelism.gpus * plan.copies} x {plan.gpu.name}",
        "verdict": found.verdict,
        "level": _LEVELS[found.verdict],
        "note": f"{memory:,.2f} GiB a GPU; {plan.parallelism.text}; "
        f"requests of {plan.context_tokens:,} tokens at once: {best:,} ({low:,} to {high:,})",
        "label": ", ".join(f"{part.name} {part.gib:,.2f} GiB" for part in parts),
        "parts": [
            {"key": part.key, "name": part.name, "gib": f"{part.gib:,.2f}", "percent": round(100 * part.gib / whole, 3)}
            for part in parts
        ],
        "memory": f"{memory:,.2f}",
        "end_percent": round(100 * memory / whole, 3) if whole > memory * 1.001 else None,
        "command": command_line(engine_flags(found)) if found.verdict != "does not fit" else None,
        "remarks": [*(f"Would make it fit: {change}" for change in changes), *fit_notes(found)],
    }
