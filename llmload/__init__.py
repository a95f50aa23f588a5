"""Load tests of LLM inference deployments with Locust. In a notebook: `run = llmload.open_run("runs/...")`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from llmload.notebook import RunData


def open_run(folder: "str | Path") -> "RunData":
    """Return a run folder's content as typed objects and DataFrames; RunFolderError if it is not a run's folder."""
    from llmload.notebook import RunData

    return RunData.of(folder)


__all__ = ["open_run"]
