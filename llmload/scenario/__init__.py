"""One TOML file as one validated `Scenario`."""

from llmload.scenario.reading import load_scenario
from llmload.scenario.tables import Scenario

__all__ = ["Scenario", "load_scenario"]
