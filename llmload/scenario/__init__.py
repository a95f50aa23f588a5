"""One TOML file as one validated `Scenario`."""

from llmload.scenario.model import Scenario
from llmload.scenario.reading import load_scenario

__all__ = ["Scenario", "load_scenario"]
