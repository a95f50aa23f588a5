"""Load tests of LLM inference deployments with Locust. In a notebook: `run = llmload.open_run("runs/...")`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from llmload.notebook import RunData


def open_run(folder: "str | Path") -> "RunData":
    """
    Return a run folder's content as typed objects and DataFrames, which need the extra `notebook`.

    RunFolderError if it is not a run's folder, ConfigError without the extra.
    """
    from llmload.extras import need

    need("notebook", "llmload.open_run")
    from llmload.notebook import RunData

    return RunData.of(folder)


__all__ = ["open_run"]
