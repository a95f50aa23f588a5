"""What a sweep asks of an engine: GPUs by all parallel sizes or none at all, and an empty prefix cache."""

from collections.abc import Callable
from typing import Any

import pytest

from llmload.client.engine_control import EngineControl, gpus_of_sglang, gpus_of_vllm
from tests.client.scripted_server import ScriptedServer, answer

Serve = Callable[..., ScriptedServer]
PARALLEL = {"tensor_parallel_size": 2, "pipeline_parallel_size": 3, "data_parallel_size": 4}


def vllm(config: dict[str, Any] | None = None, **parallel: Any) -> dict[str, Any]:
    return {"vllm_config": {"parallel_config": {**PARALLEL, **parallel}, **(config or {})}}


@pytest.mark.parametrize(
    ("info", "gpus"),
    [
        (vllm(), 24),
        (vllm(prefill_context_parallel_size=2), 48),
        (vllm(data_parallel_size=None), None),
        (vllm(tensor_parallel_size=True), None),
        (vllm(data_parallel_external_lb=True), None),
        (vllm({"device_config": {"device_type": "cpu"}}), None),
        (vllm({"kv_transfer_config": {"kv_role": "kv_producer"}}), None),
        ({"vllm_config": "VllmConfig(tensor_parallel_size=2)"}, None),
        ({}, None),
    ],
)
def test_vllms_gpus_are_the_product_of_all_its_sizes(info: dict[str, Any], gpus: int | None) -> None:
    assert gpus_of_vllm(info) == gpus


@pytest.mark.parametrize(
    ("info", "gpus"),
    [
        ({"tp_size": 4, "pp_size": 2, "dp_size": 3}, 24),
        ({"tp_size": 8, "pp_size": 1, "dp_size": 8, "enable_dp_attention": True}, 8),
        ({"tp_size": 4, "dp_size": 3}, None),
        ({"tp_size": 4, "pp_size": 2, "dp_size": 3, "disaggregation_mode": "prefill"}, None),
    ],
)
def test_sglangs_gpus_are_the_product_of_its_sizes(info: dict[str, Any], gpus: int | None) -> None:
    assert gpus_of_sglang(info) == gpus


def test_several_addresses_are_summed_and_one_that_is_silent_leaves_the_number_unknown(serve: Serve) -> None:
    reported = answer(b'{"vllm_config": {"parallel_config": {"tensor_parallel_size": 2, "pipeline_parallel_size": 1, '
                  b'"data_parallel_size": 1}}}')  # fmt: skip
    server = serve(
        ["read", reported], ["read", reported], ["read", reported], ["read", answer(b"{}", status="404 Not Found")]
    )
    both = EngineControl(name="vllm", base_urls=[server.url, server.url])

    assert both.gpus() == 4
    assert both.gpus() is None


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (answer(b'{"success": true}'), None),
        (answer(b""), None),
        (answer(b'{"success": false}'), "the engine says that parts of the cache are in use"),
        (
            answer(b"{}", status="404 Not Found"),
            "the engine has no /reset_prefix_cache: start vLLM with VLLM_SERVER_DEV_MODE=1",
        ),
        (answer(b"{}", status="500 Internal Server Error"), "/reset_prefix_cache answered 500"),
    ],
)
def test_the_cache_is_emptied_or_it_is_said_why_not(serve: Serve, said: bytes, why: str | None) -> None:
    found = EngineControl(name="vllm", base_urls=[serve(["read", said]).url]).reset_prefix_cache()

    assert found == why or (found is not None and why is not None and found.startswith(why))
