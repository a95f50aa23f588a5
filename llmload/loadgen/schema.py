"""JSON Schemas of what leaves a process of a run: its live state and points over HTTP, and the messages between nodes.

`python -m llmload.loadgen.schema` writes them again in a checkout; a test compares them with the models.
"""

from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import BaseModel, TypeAdapter

from llmload.loadgen.live import LivePoints, LiveState
from llmload.loadgen.messages import Abort, BeginStage, Drain, Drained, Exhausted, Step, Totals, WorkerPlan

SCHEMAS: Final = Path(__file__).with_name("schemas")
FILES: Final[dict[str, tuple[type[BaseModel], ...]]] = {
    "live.schema.json": (LiveState, LivePoints),
    "messages.schema.json": (WorkerPlan, BeginStage, Step, Totals, Exhausted, Drain, Abort, Drained),
}


def schema_text(models: tuple[type[BaseModel], ...]) -> str:
    """Return the JSON Schema (draft 2020-12) of any of the models."""
    either: Any = reduce(or_, models)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **TypeAdapter(either).json_schema()}
    return orjson.dumps(schema, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()


if __name__ == "__main__":
    SCHEMAS.mkdir(exist_ok=True)
    for name, models in FILES.items():
        (SCHEMAS / name).write_text(schema_text(models), encoding="utf-8")
