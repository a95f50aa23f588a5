"""The simulated engine's prefix cache does what its formulas say: whole blocks, never the last token, oldest out."""

import json

import pytest

from llmload.errors import ConfigError
from llmload.simulator import SimulationSettings
from llmload.simulator.batch import BLOCK_TOKENS, PrefixCache
from llmload.simulator.tokens import token_bytes
from tests.simulator.conftest import StartEngine


def tokens(count: int, *, first: str = "a") -> bytes:
    return token_bytes(first + "x" * (4 * count - 1))


def test_the_whole_blocks_of_a_prompt_that_came_before_are_cached() -> None:
    cache = PrefixCache(10_000)

    assert cache.take(tokens(40)) == 0
    assert cache.take(tokens(40)) == 32
    assert cache.take(tokens(100)) == 32


def test_the_last_token_is_always_computed() -> None:
    cache = PrefixCache(10_000)
    cache.take(tokens(32))

    assert cache.take(tokens(32)) == 16
    assert cache.take(tokens(33)) == 32


def test_a_prompt_with_another_beginning_is_not_cached() -> None:
    cache = PrefixCache(10_000)
    cache.take(tokens(64))

    assert cache.take(tokens(64, first="b")) == 0


def test_the_least_recently_used_block_is_dropped_first() -> None:
    cache = PrefixCache(4 * BLOCK_TOKENS)
    cache.take(tokens(32, first="a"))
    cache.take(tokens(32, first="b"))
    cache.take(tokens(32, first="a"))
    cache.take(tokens(32, first="c"))

    assert cache.take(tokens(33, first="a")) == 32
    assert cache.take(tokens(33, first="b")) == 0


def test_a_negative_cache_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="prefix_cache_tokens = -1"):
        SimulationSettings(prefix_cache_tokens=-1)


def test_a_cached_prompt_is_answered_sooner_and_says_so(start: StartEngine) -> None:
    client = start(ttft_s=0.01, prefill_s_per_token=0.002, itl_s=0.001, output_tokens=2, prefix_cache_tokens=10_000)
    text = "x" * 4 * 156  # 4 + 156 tokens: 9 whole blocks without the last token

    for _ in range(2):
        client.chat(text)
    first, second = client.truth(2)
    metrics = client.metrics()

    assert (first["cached_tokens"], second["cached_tokens"]) == (0, 144)
    assert first["first_due_ns"] - first["admitted_ns"] == pytest.approx(0.01e9 + 160 * 0.002e9)
    assert second["first_due_ns"] - second["admitted_ns"] == pytest.approx(0.01e9 + 16 * 0.002e9)
    assert metrics['vllm:prefix_cache_queries_total{model_name="simulated"}'] == 320
    assert metrics['vllm:prefix_cache_hits_total{model_name="simulated"}'] == 144


def test_an_answer_reports_cached_tokens_only_with_a_cache(start: StartEngine) -> None:
    overrides = {"ttft_s": 0.01, "prefill_s_per_token": 0.0, "itl_s": 0.001, "output_tokens": 2}
    details = []
    for client in (start(**overrides), start(**overrides, prefix_cache_tokens=1000)):
        status, _, answer = client.request(
            "POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}
        )
        assert status == 200
        details.append(json.loads(answer)["usage"].get("prompt_tokens_details"))

    assert details == [None, {"cached_tokens": 0}]
