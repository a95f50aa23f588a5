"""What the report's page is made of; uPlot draws the live page's charts too."""

from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parent
UPLOT: Final = PAGE / "uplot"
