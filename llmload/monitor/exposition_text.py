"""Prometheus text of which all but the values is kept from scrape to scrape."""

from collections.abc import Iterable
from typing import Final

END: Final = "# EOF\n"
"""How OpenMetrics ends."""


def template(lines: Iterable[str]) -> str:
    """Return the lines as one text, with a place for a value (`%s`) behind each that is no comment."""
    return "".join(f"{line.replace('%', '%%')}{'' if line.startswith('#') else ' %s'}\n" for line in lines)
