"""
Load tests of LLM inference deployments with Locust.

In a locustfile: `from llmload import LlmUser, between, task`. In a notebook: `run = llmload.open_run("runs/...")`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from llmload.loadgen.users import (
        Answer,
        CapacityShape,
        ChatUser,
        LlmUser,
        RequestFailed,
        StagedShape,
        SweepShape,
        ToolCall,
        between,
        constant,
        constant_pacing,
        tag,
        task,
    )
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


def __getattr__(name: str) -> object:
    """Return what a locustfile needs, and join llmload to Locust; only then, since Locust patches Python's library."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llmload.loadgen import users

    users.join()
    return getattr(users, name)


__all__ = [
    "Answer",
    "CapacityShape",
    "ChatUser",
    "LlmUser",
    "RequestFailed",
    "StagedShape",
    "SweepShape",
    "ToolCall",
    "between",
    "constant",
    "constant_pacing",
    "open_run",
    "tag",
    "task",
]
