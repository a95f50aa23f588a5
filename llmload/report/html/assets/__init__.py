"""The files of the report page; the live page serves some of them too."""

from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parent
UPLOT: Final = PAGE / "uplot"
SHARED: Final = ("theme.css", "figures.js")
"""Colours, shapes and figures that both pages have in common."""
