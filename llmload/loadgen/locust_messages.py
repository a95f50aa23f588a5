"""Locust's own messages between master and workers, as tables: what is none of them is not handed to Locust."""

from locust.runners import STATE_INIT, STATE_RUNNING, STATE_SPAWNING

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError, create_model

from llmload.loadgen.locust_statistics import restore_report
from llmload.loadgen.wire import first_fault
from llmload.scenario.sections import MAX_LOAD
from llmload.stats.packed import MOST_SENT

MAX_TEXT: Final = 1 << 20
"""Of a traceback, a line of a log, or a row's name, which may be a URL."""
MAX_STATISTICS: Final = 5_000
"""Rows of Locust's tables, and different errors, that one worker may report."""
MAX_LOG_LINES: Final = 1_000
"""Locust keeps 500."""
_MOST_PERCENT: Final = 1e6
_LATEST_S: Final = 1e11

_Text = Annotated[str, Field(max_length=MAX_TEXT)]
_Name = Annotated[str, Field(max_length=1024)]
_Count = Annotated[int, Field(ge=0, le=MOST_SENT)]
_Figure = Annotated[FiniteFloat, Field(ge=-MOST_SENT, le=MOST_SENT)]
_Unix = Annotated[FiniteFloat, Field(ge=0, le=_LATEST_S)]
_Second = Annotated[int, Field(ge=0, le=int(_LATEST_S))]
_Number = Annotated[int, Field(ge=0, le=MAX_LOAD)]
_Users = Annotated[dict[_Name, _Number], Field(max_length=MAX_LOG_LINES)]


def _table(called: str, /, *, closed: bool = False, **keys: Any) -> Any:
    """Return the model of a table; keys that are not named are later versions', unless it is `closed`."""
    config = ConfigDict(strict=True, extra="forbid" if closed else "ignore")
    fields: dict[str, Any] = {key: of if isinstance(of, tuple) else (of, ...) for key, of in keys.items()}
    return create_model(called, __config__=config, **fields)


_ROW: Final = _table(
    "Row",
    name=_Text,
    method=_Name | None,
    last_request_timestamp=_Unix | None,
    start_time=_Unix,
    num_requests=_Count,
    num_none_requests=_Count,
    num_failures=_Count,
    total_response_time=_Figure,
    max_response_time=_Figure,
    min_response_time=_Figure | None,
    total_content_length=_Figure,
    response_times=Annotated[list[bytes], Field(min_length=2, max_length=2)] | dict[_Figure, _Count],
    num_reqs_per_sec=dict[_Second, _Count],
    num_fail_per_sec=dict[_Second, _Count],
)
_ERROR: Final = _table(
    "Error",
    name=_Text,
    method=_Name | None,
    error=_Text,
    occurrences=_Count,
    first_seen=(_Unix | None, None),
    last_seen=(_Unix | None, None),
)
_STATISTICS: Final = _table(
    "Statistics",
    stats=Annotated[list[_ROW], Field(max_length=MAX_STATISTICS)],  # type: ignore[valid-type]  # made above
    stats_total=_ROW,
    errors=Annotated[dict[_Text, _ERROR], Field(max_length=MAX_STATISTICS)],  # type: ignore[valid-type]  # the same
    user_classes_count=(_Users, {}),
)
_HEARTBEAT: Final = _table(
    "Heartbeat",
    state=Annotated[str, Field(pattern=f"^({STATE_INIT}|{STATE_SPAWNING}|{STATE_RUNNING})$")],
    current_cpu_usage=Annotated[FiniteFloat, Field(ge=0, le=_MOST_PERCENT)],
    current_memory_usage=(_Count, 0),
)
_LOGS: Final = _table("Logs", worker_id=_Name, logs=Annotated[list[_Text], Field(max_length=MAX_LOG_LINES)])
_SPAWN: Final = _table(
    "Spawn",
    timestamp=_Unix,
    user_classes_count=_Users,
    host=_Text | None,
    stop_timeout=Annotated[FiniteFloat, Field(ge=0, le=_LATEST_S)] | None,
    parsed_options=dict[_Name, Any],
)
_USER_CLASS: Final = _table(
    "UserClass",
    closed=True,  # each key becomes an attribute of a class
    user_class_name=_Name,
    host=(_Text | None, None),
    fixed_count=(_Figure | _Name | None, None),
    weight=(_Figure | _Name | None, None),
    tasks=(list[_Name], []),
)
_NOTHING: Final = TypeAdapter[Any](None)
FROM_WORKER: Final[Mapping[str, TypeAdapter[Any]]] = {
    "client_ready": TypeAdapter(Annotated[str, Field(min_length=1, max_length=64)] | Literal[-1]),
    "locustfile": TypeAdapter[Any](_table("Version", version=_Name)),
    "client_stopped": _NOTHING,
    "heartbeat": TypeAdapter(_HEARTBEAT),
    "stats": TypeAdapter(_STATISTICS),
    "spawning": _NOTHING,
    "spawning_complete": TypeAdapter[Any](_table("UserCounts", user_classes_count=_Users)),
    "logs": TypeAdapter(_LOGS),
    "quit": _NOTHING,
    "exception": TypeAdapter[Any](_table("Exception", msg=_Text, traceback=_Text)),
}
"""What a worker's message holds, by its type."""
FROM_MASTER: Final[Mapping[str, TypeAdapter[Any]]] = {
    "ack": TypeAdapter[Any](_table("Index", index=(_Number, 0)) | None),
    "spawn": TypeAdapter(_SPAWN),
    "stop": _NOTHING,
    "quit": _NOTHING,
    "reconnect": _NOTHING,
    "heartbeat": _NOTHING,
    "update_user_class": TypeAdapter(_USER_CLASS),
    "spawning_complete": TypeAdapter[Any](_table("SpawningComplete", user_count=_Number)),
}


def check_data(of: TypeAdapter[Any], data: Any) -> None:
    """Raise ValueError, with the key, where a message's data are not what its type holds."""
    try:
        of.validate_python(data)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None


MAX_REMEMBERED: Final = 5_000
MAX_CHARACTERS: Final = 5_000_000
SPARE_SECONDS: Final = 4_000
_PER_SECOND: Final = ("num_reqs_per_sec", "num_fail_per_sec")


class Appetite:
    """
    How many different things a worker has had its master remember: rows, errors, tracebacks, seconds.

    Locust adds up what each report has for ever, so a worker that names something new each time would fill its memory.
    What is too much is left out; the total row has it.
    """

    def __init__(self) -> None:
        self._known: set[tuple[object, ...]] = set()
        self._characters = 0
        self._seconds = 0

    def takes(self, kind: str, data: Any, age_s: float) -> bool:
        """Return whether Locust may have a worker's checked message, known for `age_s`; leave out what is too much."""
        if kind == "stats":
            restore_report(data)
            data["stats"] = [row for row in data["stats"] if self._is_known("row", row["name"], row["method"])]
            data["errors"] = {key: each for key, each in data["errors"].items() if self._is_known("error", key)}
            self._count_seconds([*data["stats"], data["stats_total"]], age_s)
        return kind != "exception" or self._is_known("traceback", data["traceback"])

    def _is_known(self, *key: str | None) -> bool:
        """Return whether this may be remembered."""
        found = (key[0], hash(key))
        if found in self._known:
            return True
        size = sum(len(part or "") for part in key)
        if len(self._known) >= MAX_REMEMBERED or self._characters + size > MAX_CHARACTERS:
            return False
        self._known.add(found)
        self._characters += size
        return True

    def _count_seconds(self, rows: list[dict[str, Any]], age_s: float) -> None:
        """Leave out requests per second where there are more seconds than have passed."""
        self._seconds += len({second for row in rows for key in _PER_SECOND for second in row[key]})
        if self._seconds > SPARE_SECONDS + 2 * age_s:
            for row in rows:
                row.update({key: {} for key in _PER_SECOND})
