"""The model of length and time, by hand."""

import math
import statistics
from typing import Any

import pytest

from llmload.errors import ConfigError
from llmload.simulator import SimulationSettings
from llmload.simulator.protocol import ApiStyle, RefusedError, parse_request
from llmload.simulator.server import from_line, to_line
from llmload.simulator.settings import FaultPicker, gap_ns, hash_prompt, ttft_ns, wanted_tokens
from llmload.simulator.tokens import count_tokens


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("ä" * 4, 2)])
def test_a_token_is_four_utf8_bytes_rounded_up(text: str, tokens: int) -> None:
    assert count_tokens(text) == tokens


def test_each_chat_message_costs_four_tokens_more() -> None:
    body = b'{"messages": [{"role": "system", "content": "abcd"}, {"role": "user", "content": "abcdefgh"}]}'

    assert parse_request(SimulationSettings(), ApiStyle.CHAT, None, body).prompt_tokens == (4 + 1) + (4 + 2)


def test_text_parts_of_a_message_count_together() -> None:
    parts = b'[{"type": "text", "text": "abcd"}, {"type": "text", "text": "efgh"}]'
    body = b'{"messages": [{"role": "user", "content": ' + parts + b"}]}"

    assert parse_request(SimulationSettings(), ApiStyle.CHAT, None, body).prompt_tokens == 4 + 2


def test_a_prompt_of_token_ids_counts_its_ids() -> None:
    assert parse_request(SimulationSettings(), ApiStyle.COMPLETIONS, None, b'{"prompt": [5, 6, 7]}').prompt_tokens == 3


def test_first_token_takes_ttft_and_prefill() -> None:
    settings = SimulationSettings(ttft_s=0.05, prefill_s_per_token=0.001)

    assert ttft_ns(settings, 100) == 150_000_000


def test_the_gap_grows_with_the_others_in_the_batch() -> None:
    settings = SimulationSettings(itl_s=0.02, itl_load_factor=1.0, slots=4)

    assert [gap_ns(settings, running) for running in (1, 2, 4)] == [20_000_000, 25_000_000, 35_000_000]


def test_answer_lengths_follow_the_prompt_and_the_seed() -> None:
    one, other = SimulationSettings(seed=1), SimulationSettings(seed=2)
    prompts = [f"prompt {i}".encode() for i in range(50)]

    def lengths(settings: SimulationSettings) -> list[int]:
        return [wanted_tokens(settings, hash_prompt(settings, prompt)) for prompt in prompts]

    assert lengths(one) == lengths(one)
    assert lengths(one) != lengths(other)


def test_drawn_lengths_have_the_stated_mean_and_spread() -> None:
    settings = SimulationSettings(output_tokens_mean=200.0, output_tokens_spread=0.5)
    drawn = [wanted_tokens(settings, hash_prompt(settings, str(i).encode())) for i in range(20_000)]

    assert statistics.fmean(drawn) == pytest.approx(200.0, rel=0.02)
    assert statistics.stdev(map(math.log, drawn)) == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize(
    ("options", "tokens", "truncated"),
    [
        (b"", 10, False),
        (b', "max_tokens": 10', 10, False),
        (b', "max_tokens": 9', 9, True),
        (b', "max_completion_tokens": 4', 4, True),
        (b', "max_tokens": 25, "ignore_eos": true', 25, True),
    ],
)
def test_max_tokens_truncates_an_answer_and_is_its_length_when_eos_is_ignored(
    options: bytes, tokens: int, truncated: bool
) -> None:
    settings = SimulationSettings(output_tokens=10)
    read = parse_request(settings, ApiStyle.COMPLETIONS, None, b'{"prompt": "x"' + options + b"}")

    assert (read.output_tokens, read.truncated) == (tokens, truncated)


def test_tgi_answers_twenty_tokens_by_default() -> None:
    assert (
        parse_request(SimulationSettings(output_tokens=50), ApiStyle.TGI, True, b'{"inputs": "x"}').output_tokens == 20
    )


def test_a_prompt_beyond_the_context_is_refused() -> None:
    settings = SimulationSettings(max_model_len_tokens=10)

    with pytest.raises(RefusedError) as refused:
        parse_request(settings, ApiStyle.COMPLETIONS, None, b'{"prompt": "%s", "max_tokens": 4}' % (b"x" * 28))
    assert refused.value.status == 400


def test_faults_are_picked_in_their_shares_and_reproducibly() -> None:
    def faults_of_requests() -> list[str | None]:
        picker = FaultPicker({"http_500": 0.2, "reset": 0.1}, seed=7)
        return [picker.next() for _ in range(10_000)]

    first = faults_of_requests()
    assert first == faults_of_requests()
    assert first.count("http_500") == pytest.approx(2000, abs=150)
    assert first.count("reset") == pytest.approx(1000, abs=150)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"slots": 0}, "slots = 0"),
        ({"itl_s": -1.0}, "itl_s = -1.0"),
        ({"ttft_s": math.nan}, "ttft_s = nan"),
        ({"output_tokens": 0}, "output_tokens = 0"),
        ({"reasoning_tokens": -1}, "reasoning_tokens = -1"),
        ({"draft_tokens": 2, "accepted_draft_tokens": 3}, "more than draft_tokens = 2"),
        ({"proxy_s": -1.0}, "proxy_s = -1.0"),
        ({"reasoning_form": "loud"}, "field, tags, hidden"),
        ({"faults": {"fire": 0.1}}, "'fire'"),
        ({"faults": {"reset": 1.5}}, "reset = 1.5"),
        ({"faults": {"reset": 0.6, "stall": 0.6}}, "1.2"),
    ],
)
def test_an_impossible_setting_is_named_with_its_value(overrides: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        SimulationSettings(**overrides)


def test_settings_reach_the_process_unchanged_and_repr_hides_the_key() -> None:
    settings = SimulationSettings(api_key="hush", faults={"reset": 0.5}, output_tokens=3)

    assert from_line(to_line(settings)) == settings
    assert "hush" not in repr(settings)
