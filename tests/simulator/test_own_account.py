"""What the simulated engine says about itself beside tokens: a request's own times, preemptions, drafts."""

import json

from llmload.prometheus.pages import ENGINE, read_page
from tests.simulator.conftest import StartEngine
from tests.simulator.test_schedule import ask_in_turn

CHAT = {
    "messages": [{"role": "user", "content": "abcdefgh"}],
    "stream": True,
    "stream_options": {"include_usage": True},
}


def test_usage_has_the_times_of_the_truth_log_and_a_proxy_is_in_none_of_them(start: StartEngine) -> None:
    client = start(per_request_metrics=True, proxy_s=0.05, ttft_s=0.02, prefill_s_per_token=0, itl_s=0, output_tokens=3)
    own = json.loads(client.events("/v1/chat/completions", CHAT)[-2])["metrics"]
    (row,) = client.truth(1)

    assert own["queue_time_ms"] == 0
    assert own["time_to_first_token_ms"] == (row["first_write_ns"] - row["admitted_ns"]) / 1e6
    assert own["generation_time_ms"] == (row["last_write_ns"] - row["first_write_ns"]) / 1e6
    assert row["admitted_ns"] - row["received_ns"] == 50_000_000


def test_requests_are_put_back_where_the_cache_has_no_room_and_still_answered(start: StartEngine) -> None:
    client = start(
        slots=4,
        kv_cache_tokens=60,
        keeps_kv_cache=True,
        draft_tokens=3,
        accepted_draft_tokens=1,
        ttft_s=0.01,
        prefill_s_per_token=0,
        itl_s=0.002,
        itl_load_factor=0,
        output_tokens=31,
    )
    ask_in_turn(client, ["one", "two", "three"], apart_s=0.002)
    rows = client.truth(3)
    figures = read_page(client.request("GET", "/metrics")[2].decode(), ENGINE).parts[""]

    assert [(row["output_tokens"], row["finish"]) for row in rows] == [(31, "stop")] * 3
    assert figures["preemptions"] >= 1
    assert figures["output_tokens"] == 3 * 31
    assert (figures["drafts"], figures["draft_tokens"], figures["accepted_tokens"]) == (3 * 15, 3 * 45, 3 * 15)
    assert (figures["accepted_at_1"], figures["accepted_at_2"]) == (45, 0)
    assert figures["queue_count"] == figures["prefill_count"] == figures["decode_count"] == 3
