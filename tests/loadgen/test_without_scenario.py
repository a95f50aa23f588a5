"""Locust's own command, with no scenario: what is assumed, and what is said of it."""

import argparse
from typing import Any

import pytest

from llmload.client.settings import EngineInfo
from llmload.errors import EngineError
from llmload.loadgen import preparation
from llmload.loadgen.preparation import Preparation, served_model
from llmload.scenario.options import OPTIONS
from tests.loadgen.conftest import Locust, StartEngine
from tests.loadgen.test_wrong_use import check

URL = "http://engine:8000"


def engine_that_lists(*rows: dict[str, Any]) -> EngineInfo:
    return EngineInfo(base_url=URL, answers={"/v1/models": {"data": list(rows)}} if rows else {})


@pytest.mark.parametrize(
    ("rows", "model"),
    [
        ([{"id": "m"}], "m"),
        ([{"id": "m", "root": "org/m"}, {"id": "adapter", "root": "path", "parent": "m"}], "m"),
        ([{"id": "first", "root": "org/m"}, {"id": "second", "root": "org/m"}], "first"),
    ],
)
def test_the_one_model_that_an_engine_serves(rows: list[dict[str, Any]], model: str) -> None:
    assert served_model(engine_that_lists(*rows)) == model


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], f"the engine at {URL} does not say which model it serves: give --model NAME"),
        ([{"id": "a"}, {"id": "b"}], r"serves 2 models \(a, b\): give one of them with --model NAME"),
    ],
)
def test_an_engine_that_serves_none_or_several(rows: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(EngineError, match=says):
        served_model(engine_that_lists(*rows))


def parsed(**changes: object) -> argparse.Namespace:
    empty = {option.dest: "" for option in OPTIONS}
    return argparse.Namespace(
        **empty
        | {"settings": [], "host": URL, "num_users": None, "spawn_rate": None, "run_time": None}
        | {"headless": True, "worker": False, "master": False, "processes": None}
        | changes
    )


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> list[EngineInfo]:
    """What the engine says each time that it is asked, the last answer again and again; one of none is silence."""
    says: list[EngineInfo] = []

    def ask_engine(url: str, **_: object) -> EngineInfo:
        if not says:
            raise EngineError(f"the engine at {url} does not answer")
        return says[0]

    monkeypatch.setattr(preparation, "ask_engine", ask_engine)
    return says


def test_the_engine_is_asked_unless_a_model_is_given(ask: list[EngineInfo]) -> None:
    ask.append(engine_that_lists({"id": "org/m"}))

    assert Preparation(None).scenario(parsed()).model.request_name == "org/m"
    assert Preparation(None).scenario(parsed(model="auto")).model.request_name == "org/m"
    ask.clear()
    assert Preparation(None).scenario(parsed(model="mine")).model.request_name == "mine"


def test_an_engine_that_is_started_after_the_web_ui(ask: list[EngineInfo]) -> None:
    prepared, options = Preparation(None), parsed(headless=False)

    waiting = prepared.scenario(options)
    assert waiting.model.name == "auto"
    with pytest.raises(EngineError, match="does not answer"):
        prepared.meet_engine(waiting)

    ask.append(engine_that_lists({"id": "m"}))
    prepared.meet_engine(prepared.scenario(options))
    assert prepared.scenario(options).model.name == "m"


def test_an_engine_that_is_started_again_with_another_model(ask: list[EngineInfo]) -> None:
    prepared, options = Preparation(None), parsed(headless=False)
    ask.append(engine_that_lists({"id": "m"}))
    prepared.meet_engine(prepared.scenario(options))

    ask[0] = engine_that_lists({"id": "another"})
    with pytest.raises(EngineError, match="does not serve model 'm' but another"):
        prepared.meet_engine(prepared.scenario(options))
    prepared.meet_engine(prepared.scenario(options))


def test_a_worker_leaves_it_to_its_master(ask: list[EngineInfo]) -> None:
    assert not ask
    assert Preparation(None).scenario(parsed(worker=True)).model.name == "auto"


def test_a_run_without_a_scenario(engine: StartEngine, locust: Locust) -> None:
    url = engine(ttft_s=0.01, itl_s=0.001, output_tokens=4, model="org/m").url

    ended = locust.run(
        *("-f", "locustfiles/chat.py", "-u", "4", "-t", "2s", "--host", url, "--processes", "2"),
        *("--metrics-port", "off"),
    )

    assert ended.code == 0, ended.err
    assert ended.summary["model"] == "org/m"
    said = [line for line in ended.err.splitlines() if line.startswith("llmload: ")]
    assert len(said) == 1
    assert "model org/m, builtin prompts, max_tokens = 128, 4 users in a closed loop, 2 s;" in said[0]


def test_a_run_without_a_scenario_and_an_engine(locust: Locust) -> None:
    check(
        locust.run("-f", "locustfiles/chat.py", "-u", "4", "-t", "2s", "--host", "http://127.0.0.1:1"),
        "the engine at http://127.0.0.1:1 does not answer (Connection refused): start it, or give its address",
    )
