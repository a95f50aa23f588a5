"""Lengths in whole runs: what is learned of an engine before the load, what is refused, what is measured."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmload.client.settings import ask_engine
from llmload.errors import EngineError, LlmloadError
from llmload.loadgen.calibration import learn
from llmload.loadgen.preparation import Preparation, client_settings
from llmload.prompts.workload import Calibration
from llmload.scenario import load_scenario
from llmload.scenario.reading import find_scenario
from llmload.simulator import SimulationSettings, spawn
from llmload.simulator.server import SpawnedEngine
from tests.loadgen.conftest import Locust, StartEngine, WriteScenario

QUICK: dict[str, Any] = {"ttft_s": 0.0, "itl_s": 0.0, "prefill_s_per_token": 0.0, "tokenizer": "words"}
LENGTHS = """
[prompts]
shapes = [[64, 4], [96, 9]]
[[mix]]
name = "cool"
request = { temperature = 0.5 }
[[mix]]
name = "short"
request = { max_tokens = 2 }
[[mix]]
name = "long"
prompts = { input_tokens = { min = 200, max = 209 }, output_tokens = 5 }
"""


def learned(url: str, **keys: Any) -> Calibration:
    prompts = {f"prompts.{key}": value for key, value in keys.items() if key != "engine"}
    changes = {"engine.base_url": url, "engine.name": keys.get("engine", "other"), "model.name": "simulated"}
    scenario = load_scenario(find_scenario("chat"), {**changes, **prompts})
    return learn(scenario, client_settings(scenario), ask_engine(url), Path.cwd())


@pytest.fixture(scope="module")
def plain() -> Iterator[SpawnedEngine]:
    """An engine that takes no more than Transformers' server does."""
    settings = SimulationSettings(**QUICK, tokenize=False, exact_output=False, max_model_len_tokens=600)
    with spawn(settings) as engine:
        yield engine


def test_an_engine_is_asked_by_its_own_tokenizer_and_for_what_it_takes() -> None:
    with spawn(SimulationSettings(**QUICK)) as engine:
        found = learned(engine.url, input_tokens=100, output_tokens=5)

    assert (found.counted_by, found.output_fields) == ("/tokenize", ("ignore_eos", "min_tokens"))
    assert found.text is not None
    assert len(found.text.sentence_tokens) == 512


def test_an_engine_without_these_is_asked_by_answers_and_a_warning_says_what_is_missing(
    plain: SpawnedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = learned(plain.url, input_tokens=100, output_tokens=5)

    assert (found.counted_by, found.output_fields) == ("usage", ())
    assert found.text is not None
    assert len(found.text.sentence_tokens) == 192
    assert "takes neither ignore_eos nor min_tokens" in caplog.text


def test_fields_are_as_stated(plain: SpawnedEngine) -> None:
    assert learned(plain.url, output_tokens=5, exact_output=["ignore_eos"]).output_fields == ("ignore_eos",)
    assert learned(plain.url, output_tokens=5, exact_output=False).output_fields == ()


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"shapes": [[500, 200], [50, 5]]}, "longer than the engine's context of 600 tokens, the longest 500 + 200"),
        ({"input_tokens": 500}, "the longest 500 + 128: ask for fewer in prompts.input_tokens or request.max_tokens"),
        ({"input_tokens": 9}, "no prompt has 9 tokens: the chat template, its salt and the opening take"),
    ],
)
def test_lengths_that_cannot_be_are_refused(plain: SpawnedEngine, keys: dict[str, Any], says: str) -> None:
    with pytest.raises(LlmloadError, match=says.replace("+", r"\+")):
        learned(plain.url, **keys)


def test_an_engine_is_asked_again_after_a_run_without_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmload.loadgen.preparation.learn", lambda *_: Calibration(output_fields=("ignore_eos",)))
    file = find_scenario("chat")
    preparation, found = Preparation(file), []
    for tokens in (5, None, 5):
        preparation.calibrate(load_scenario(file, {"prompts.output_tokens": tokens} if tokens else {}))
        found.append(preparation.calibration)

    assert found[0] == found[2] == Calibration(output_fields=("ignore_eos",))
    assert found[1] is None


def test_an_engine_that_does_not_count_is_refused() -> None:
    settings = SimulationSettings(**QUICK, tokenize=False, faults={"no_usage": 1.0})
    with spawn(settings) as engine, pytest.raises(EngineError, match=r"does not say how many tokens .*usage"):
        learned(engine.url, input_tokens=100)


def test_workers_send_what_the_master_has_measured(
    engine: StartEngine, write_scenario: WriteScenario, locust: Locust
) -> None:
    running = engine(**{**QUICK, "itl_s": 0.001, "ttft_s": 0.002, "prefix_cache_tokens": 1_000_000})
    scenario = write_scenario(running.url, "users = 4\nrequests = 40", LENGTHS)

    ended = locust.run("--config", str(scenario), "--processes", "2")

    lengths = ended.summary["lengths"]
    assert ended.code == 0, ended.err
    assert all(line["asked_prompt_tokens"] == line["prompt_tokens"] for line in ended.lines)
    assert {(line["name"], line["prompt_tokens"]) for line in ended.lines if line["name"] != "long"} == {
        (name, tokens) for name in ("cool", "short") for tokens in (64, 96)
    }
    assert {(line["name"], line["asked_output_tokens"], line["output_tokens"]) for line in ended.lines} == {
        ("cool", 4, 4),
        ("cool", 9, 9),
        ("short", 2, 2),
        ("long", 5, 5),
    }
    rows = {row["name"]: row for row in ended.summary["by_name"]}
    assert sum(row["completed"] for row in rows.values()) == 40
    assert (rows["short"]["request_output_tokens"]["max"], rows["cool"]["request_output_tokens"]["max"]) == (2, 9)
    of_long = rows["long"]["lengths"]
    assert 200 <= of_long["input"]["asked_mean"] == of_long["input"]["counted_mean"] <= 209
    assert of_long["output"]["exact_share"] == 1.0
    assert {line["cached_tokens"] for line in ended.lines} == {0}, "neither the measurement nor another prompt began so"
    assert (lengths["input"]["requests"], lengths["input"]["exact_share"]) == (40, 1.0)
    assert (lengths["output"]["exact_share"], lengths["output"]["deviation_max"]) == (1.0, 0)
