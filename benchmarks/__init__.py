"""Programs around llmload: comparisons with other tools, trials with PASS or FAIL, and tools that both use."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
"""The checkout."""
