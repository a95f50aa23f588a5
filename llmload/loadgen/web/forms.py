"""The start form: which fields it may set, and whether the run that it asks for can begin or be edited so."""

from locust.util.timespan import parse_timespan

import argparse
import copy
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
from flask import Response, request

from llmload.errors import ConfigError, LlmloadError
from llmload.loadgen import locust_compat
from llmload.loadgen.coordinating import CoordinatingNode
from llmload.loadgen.options import check_prompts_of_form, prompts_of_form

_NOT_OPTIONS: Final = frozenset(
    {"user_count", "spawn_rate", "host", "run_time", "profile", "user_classes", "shape_class"}
)
"""Fields that Locust's form has beside options."""
_NUMBERS: Final[Mapping[str, tuple[str, Callable[[str], object], str]]] = {
    "user_count": ("num_users", int, "a whole number"),
    "spawn_rate": ("spawn_rate", float, "a number"),
    "run_time": ("run_time", parse_timespan, "a time such as 90, 20s or 1h30m"),
}
"""Fields that are numbers: their names among the options, how they are read, and what they are."""
_USER_SETTINGS: Final = frozenset({"user_class_name", "host", "weight", "fixed_count", "tasks"})
"""What Locust's dialog for a user class sets."""


class FormChecks:
    """Answers in Locust's place what must not or cannot be run, so that the form itself says why."""

    def __init__(self, node: CoordinatingNode, shown: frozenset[str]) -> None:
        """`shown` are the options that the form shows."""
        self._node, self._fields = node, shown | _NOT_OPTIONS
        self._prompts = prompts_of_form(node.scenario, node.options)

    def of_start(self) -> Response | None:
        """Return the answer to a form that is refused; None where Locust may take it."""
        node = self._node
        unknown = _beside(request.form, self._fields)
        if unknown is not None:
            return unknown
        try:
            asked = as_options(request.form, node.options)
            check_prompts_of_form(asked.prompts, self._prompts)
            _check_form(node, asked)
        except LlmloadError as error:
            message = str(error).removeprefix("command line: ")  # a form's fields are the same options
            answer = {"success": False, "message": message, "host": node.environment.host}
            return Response(orjson.dumps(answer), mimetype="application/json", headers={"Cache-Control": "no-store"})
        return None

    def of_user_class(self) -> Response | None:
        """Return the answer to settings of a user class that its dialog does not have; None where there are none."""
        settings = request.get_json(force=True, silent=True)
        if not isinstance(settings, dict):
            return _bad("the body is not a JSON object")
        return _beside(settings, _USER_SETTINGS)


def guarded(guard: Callable[..., Any], checks: FormChecks) -> Callable[[], Any]:
    """Return the checks as what Flask calls before each request, behind the login where there is one."""
    by_endpoint = {locust_compat.START: guard(checks.of_start), locust_compat.USER: guard(checks.of_user_class)}

    def check() -> Any:
        found = by_endpoint.get(request.endpoint or "")
        return None if found is None else found()

    return check


def _beside(fields: Iterable[str], known: frozenset[str]) -> Response | None:
    strange = sorted(set(fields) - known)
    if not strange:
        return None
    return _bad(
        f"the form has no field {strange[0][:100]!r}: options that it does not show are given at Locust's start"
    )


def _bad(text: str) -> Response:
    return Response(f"{text}\n", status=HTTPStatus.BAD_REQUEST, mimetype="text/plain")


def _check_form(node: CoordinatingNode, asked: argparse.Namespace) -> None:
    run = node.coordinator
    if not locust_compat.has_a_run(node.runner):
        node.preparation.meet_engine(node.preparation.scenario(asked))
    elif run is not None and run.summary is None:
        node.edits.check(run, asked)


def as_options(form: Mapping[str, str], parsed: argparse.Namespace) -> argparse.Namespace:
    """Return the options as Locust will have them once it takes the form; ConfigError for a number that is none."""
    asked = copy.copy(parsed)
    for name, text in form.items():
        if name in _NUMBERS and (text or name != "run_time"):
            dest, read, what = _NUMBERS[name]
            try:
                setattr(asked, dest, read(text))
            except ValueError:  # said here: Locust would keep the fields that come before it
                raise ConfigError(f"{name}: {text[:100]!r} is not {what}") from None
        elif name not in _NUMBERS and isinstance(getattr(parsed, name, None), str):
            setattr(asked, name, text)
    return asked
