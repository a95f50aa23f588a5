"""The trial of the sizing on a GPU: all of it but the GPU's own calls."""

import json
import threading
import urllib.request
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.tools import random_engine
from benchmarks.trials import gpu_sizing
from benchmarks.trials.gpu_sizing import SHAPES, config_of, judge_load, judge_speed, judge_weights, main
from llmload.sizing.architecture import ModelSpec
from llmload.sizing.families import model_from_config
from llmload.sizing.hf_config import HfConfig
from llmload.sizing.parameters import count_parameters

GIB = 2**30


def model_of(shape: str, device: str = "cuda") -> ModelSpec:
    return model_from_config(HfConfig(config_of(shape, device), shape), shape)


def test_without_a_gpu_the_trial_says_so_and_exits_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_sizing, "local_gpus", list)
    done = CliRunner().invoke(main)

    assert (done.exit_code, done.output.startswith("no GPU here: skipped")) == (0, True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_each_shape_is_a_model_of_a_size_for_its_device(shape: str, device: str) -> None:
    size_bytes = 4 * count_parameters(model_of(shape, device)).total

    assert size_bytes < (12 * GIB if device == "cuda" else GIB / 32)


def test_weights_are_compared_with_the_bytes_stored_and_those_of_the_driver() -> None:
    model = model_of("llama")
    size_bytes = 2 * count_parameters(model).total

    def problems(stored: float, driver: float | None) -> list[bool]:
        facts = {"stored_bytes": stored, "driver_bytes": driver}
        return [row.problem is None for row in judge_weights("llama bf16", model, "bf16", facts)]

    assert problems(size_bytes, size_bytes + GIB // 2) == [True, True]
    assert problems(1.02 * size_bytes, size_bytes + 2 * GIB) == [False, False]
    assert problems(size_bytes, 0.95 * size_bytes) == [True, False]
    assert problems(size_bytes, None) == [True]


def test_a_speed_above_the_bound_is_off_by_the_card_or_by_the_measured_copy() -> None:
    model = model_of("llama")
    slow = {"gpu": "NVIDIA H100 80GB HBM3", "copy_gb_per_s": 1.0, "decode_tokens_per_s": 100.0}
    unknown = {"gpu": None, "copy_gb_per_s": 100.0, "decode_tokens_per_s": 100.0}

    assert judge_speed("llama bf16", model, "bf16", slow).problem is None
    assert judge_speed("llama bf16", model, "bf16", slow | {"decode_tokens_per_s": 5000.0}).problem is not None
    assert judge_speed("llama bf16", model, "bf16", unknown).problem == "faster than its bound"


def test_llmloads_figures_are_compared_with_the_engines_log_of_the_same_requests() -> None:
    log = [{"tokens": 48, "tpot_s": 0.010}, {"tokens": 48, "tpot_s": 0.012}]
    near = judge_load({"tpot_s": {"mean": 0.0112}, "output_tokens": 96}, log)
    far = judge_load({"tpot_s": {"mean": 0.0125}, "output_tokens": 95}, log)

    assert [row.problem for row in near] == [None, None]
    assert [row.problem for row in far] == ["they differ", "they differ"]
    assert near[0].text.endswith("held")


def test_the_engine_streams_what_it_generates_and_logs_its_own_times(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def generated(model: Any, prompt: list[int], count: int) -> Iterator[tuple[int, float]]:
        assert model is None
        assert prompt
        yield from ((token, token / 100) for token in range(count))

    monkeypatch.setattr(random_engine, "tokens", generated)
    server = ThreadingHTTPServer(("127.0.0.1", 0), random_engine.Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/v1"
        named = json.load(urllib.request.urlopen(f"{url}/models"))
        asked = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}).encode()
        stream = urllib.request.urlopen(f"{url}/chat/completions", asked).read().decode()
    finally:
        server.shutdown()
        server.server_close()

    events = [line.removeprefix("data: ") for line in stream.splitlines() if line]
    assert named["data"][0]["id"] == "random"
    assert [json.loads(event)["choices"][0]["delta"]["content"] for event in events[:3]] == [" w0", " w1", " w2"]
    assert json.loads(events[4])["usage"]["completion_tokens"] == 3
    assert events[-1] == "[DONE]"
    assert json.loads(capsys.readouterr().out) == {"tokens": 3, "tpot_s": 0.01}
