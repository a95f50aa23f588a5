"""What engines say of a request's own times and drafts: streams as they send them, and the parts of TTFT."""

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from llmload.client.api import ChatStream
from llmload.client.timings import timings_in
from llmload.record import Outcome, RequestRecord
from tests.client.test_answers import by_decoding, by_frames, chat_event

STREAMS = Path(__file__).parent / "streams"
VLLM = {
    "time_to_first_token_ms": 41.5,
    "generation_time_ms": 300.25,
    "queue_time_ms": 8.5,
    "mean_itl_ms": 9.7,
    "tokens_per_second": 90.0,
    "speculative_decoding": {
        "mean_acceptance_length": 2.5,
        "draft_acceptance_rate": 0.5,
        "acceptance_histogram": [2, 2, 2, 4],
        "num_spec_steps": 10,
        "num_accepted_draft_tokens": 15,
        "num_draft_tokens": 30,
        "num_spec_tokens": 3,
    },
}


def usage_chunk(**more: Any) -> bytes:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return b"data: " + orjson.dumps({"choices": [], "usage": usage, **more}) + b"\n\n"


def test_vllms_metrics_come_with_the_usage_of_a_stream() -> None:
    events = [chat_event({"content": each}) for each in "ab"] + [chat_event({}, "stop"), usage_chunk(metrics=VLLM)]
    answer, framed = ChatStream(), ChatStream()
    by_decoding(answer, events)
    by_frames(framed, events)

    for fields in (answer.record_fields(), framed.record_fields()):
        assert {name: fields[name] for name in ("engine_queue_s", "engine_prefill_s", "engine_decode_s")} == {
            "engine_queue_s": 0.0085,
            "engine_prefill_s": 0.0415,
            "engine_decode_s": 0.30025,
        }
        assert (fields["drafts"], fields["draft_tokens"], fields["accepted_tokens"]) == (10, 30, 15)


def test_they_come_with_an_answer_in_one_piece_too() -> None:
    answer = ChatStream()
    whole = {"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}], "metrics": VLLM}
    answer.take_whole(orjson.dumps(whole))

    assert answer.record_fields()["engine_prefill_s"] == 0.0415


@pytest.mark.parametrize("name", ["llamacpp_chat_stream.sse", "llamacpp_chat_stream_nousage.sse"])
def test_llama_cpps_timings_as_it_sent_them(name: str) -> None:
    answer = ChatStream()
    by_decoding(answer, [(STREAMS / name).read_bytes()])
    (said,) = [
        event["timings"]
        for line in (STREAMS / name).read_text().splitlines()
        if line.startswith("data: {") and "timings" in (event := orjson.loads(line.removeprefix("data: ")))
    ]
    fields = answer.record_fields()

    assert fields["engine_prefill_s"] == pytest.approx(said["prompt_ms"] / 1000)
    assert fields["engine_decode_s"] == pytest.approx(said["predicted_ms"] / 1000)
    assert fields.get("engine_queue_s") is None


@pytest.mark.parametrize("value", [None, "8", True, -1.0, float("nan"), 1e12, {}])
def test_anything_but_a_duration_is_unknown(value: Any) -> None:
    assert timings_in({"metrics": {"queue_time_ms": value}})["engine_queue_s"] is None


def test_an_ordinary_chunk_says_nothing() -> None:
    assert timings_in({"choices": [], "metrics": None, "timings": 3}) == {}


@pytest.mark.parametrize(("queue_s", "rest_s"), [(0.01, 0.05), (None, 0.06)])
def test_the_rest_of_ttft_is_what_the_engine_does_not_account_for(queue_s: float | None, rest_s: float) -> None:
    record = RequestRecord(
        request_id="r",
        prompt_id="p",
        started_ns=0,
        done_ns=10**9,
        outcome=Outcome.COMPLETED,
        chunk_ns=np.array([100_000_000], dtype=np.int64),
        engine_queue_s=queue_s,
        engine_prefill_s=0.04,
    )

    assert record.ttft_rest_s == pytest.approx(rest_s)


def test_a_later_chunk_that_says_nothing_takes_nothing_back() -> None:
    answer = ChatStream()
    by_decoding(answer, [chat_event({"content": "a"}), usage_chunk(metrics=VLLM), usage_chunk(metrics=None)])

    assert answer.record_fields()["engine_prefill_s"] == 0.0415
