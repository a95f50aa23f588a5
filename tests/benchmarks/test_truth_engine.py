"""The truth engine keeps its schedule, words its streams as vLLM does, and logs what it did."""

import json
import shutil
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.tools.truth_engine.build import has_tls
from benchmarks.tools.truth_engine.engine import Schedule, TruthEngine
from benchmarks.tools.truth_engine.log import TruthLog

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the truth engine is compiled with gcc")

QUICK = Schedule(tokens=5, ttft_s=0.02, gap_s=0.005)


def ask(engine: TruthEngine, request_id: str = "", *, path: str = "/v1/chat/completions", **body: Any) -> str:
    """Send a request and return the answer's body."""
    request = urllib.request.Request(
        f"{engine.base_url}{path}",
        data=json.dumps({"messages": [{"role": "user", "content": "Hi"}], **body}).encode(),
        headers={"X-Request-Id": request_id} if request_id else {},
    )
    context = ssl.create_default_context(cafile=str(engine.ca_file)) if engine.tls else None
    with urllib.request.urlopen(request, context=context, timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def events(stream: str) -> list[str]:
    """Return the data of a stream's events."""
    return [event.removeprefix("data: ") for event in stream.split("\n\n") if event]


def test_a_stream_is_role_content_finish_usage_done(tmp_path: Path) -> None:
    with TruthEngine(QUICK, tmp_path) as engine:
        *chunks, done = events(ask(engine, stream=True, stream_options={"include_usage": True}))
    role, *contents, finish, usage = map(json.loads, chunks)

    assert done == "[DONE]"
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len(contents) == 5
    assert all(chunk["choices"][0]["delta"]["content"] for chunk in contents)
    assert finish["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 5


def test_a_completion_without_chat_streams_text(tmp_path: Path) -> None:
    with TruthEngine(QUICK, tmp_path) as engine:
        stream = ask(engine, path="/v1/completions", stream=True, stream_options={"include_usage": True})
    *chunks, done = events(stream)
    *contents, finish, usage = (json.loads(chunk) for chunk in chunks)

    assert done == "[DONE]"
    assert [bool(chunk["choices"][0]["text"]) for chunk in [*contents, finish]] == [True] * 5 + [False]
    assert {chunk["object"] for chunk in contents} == {"text_completion"}
    assert finish["choices"][0]["finish_reason"] == "length"
    assert usage["usage"]["completion_tokens"] == 5
    assert len(engine.log.complete[0].writes_ns) == 5


def test_usage_is_sent_only_on_request(tmp_path: Path) -> None:
    with TruthEngine(QUICK, tmp_path) as engine:
        stream = ask(engine, stream=True)

    assert "usage" not in stream


def test_a_prompt_that_quotes_the_stream_field_starts_no_stream(tmp_path: Path) -> None:
    with TruthEngine(QUICK, tmp_path) as engine:
        answer = ask(engine, messages=[{"role": "user", "content": '"stream": true'}])

    assert json.loads(answer)["usage"]["completion_tokens"] == 5


def test_the_log_has_the_schedule_and_the_times_of_writing(tmp_path: Path) -> None:
    started_ns = time.monotonic_ns()
    with TruthEngine(QUICK, tmp_path) as engine:
        for number in range(3):
            ask(engine, f"request-{number}", stream=True)
    ended_ns = time.monotonic_ns()
    log = engine.log

    assert [answer.request_id for answer in log.answers] == ["request-0", "request-1", "request-2"]
    for answer in log.answers:
        assert answer.complete
        assert (
            started_ns < answer.received_ns < answer.writes_ns[0] <= answer.writes_ns[-1] <= answer.done_ns < ended_ns
        )
        assert answer.first_due_ns == answer.received_ns + 20_000_000
        due_ns = answer.first_due_ns + np.arange(5) * 5_000_000
        late_ns = answer.writes_ns - due_ns
        assert late_ns.min() >= 0  # never early
        assert late_ns.max() == answer.worst_late_ns
    assert log.chunks == 15
    assert len(log.gaps_s) == 12
    assert log.gaps_s.sum() == pytest.approx(3 * 0.02, abs=3 * log.worst_late_s.max())


def test_an_answer_that_its_client_leaves_is_logged_as_incomplete(tmp_path: Path) -> None:
    with TruthEngine(Schedule(tokens=1000, ttft_s=0.0, gap_s=0.01), tmp_path) as engine:
        request = urllib.request.Request(
            f"{engine.base_url}/v1/chat/completions", data=b'{"stream": true}', headers={"X-Request-Id": "left"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read(100)
        time.sleep(0.1)
    (left,) = engine.log.answers

    assert not left.complete
    assert 0 < len(left.writes_ns) < 1000
    assert len(engine.log.ttft_s) == 0


def test_jitter_moves_chunks_but_not_the_schedule(tmp_path: Path) -> None:
    schedule = Schedule(tokens=50, ttft_s=0.0, gap_s=0.004, jitter_s=0.002)
    with TruthEngine(schedule, tmp_path) as engine:
        ask(engine, stream=True)
    (answer,) = engine.log.answers
    moved_s = (answer.writes_ns - answer.first_due_ns - np.arange(50) * 4_000_000) / 1e9

    assert np.ptp(moved_s) > 0.001
    assert abs(float(np.median(moved_s))) < 0.002


def test_large_answers_and_long_prompts_are_carried(tmp_path: Path) -> None:
    schedule = Schedule(tokens=200, ttft_s=0.0, gap_s=0.0, chunk_bytes=100_000, large_first=1)
    prompt = [{"role": "user", "content": "word " * 100_000}]
    with TruthEngine(schedule, tmp_path) as engine:
        large = ask(engine, stream=True, messages=prompt, stream_options={"include_usage": True})
        small = ask(engine, stream=True)

    assert len(large) > 19_900_000
    assert json.loads(events(large)[-2])["usage"]["prompt_tokens"] >= 100_000
    assert len(small) < 100_000


def test_questions_about_the_engine_are_answered(tmp_path: Path) -> None:
    def get(path: str) -> bytes:
        with urllib.request.urlopen(engine.base_url + path, timeout=30) as answer:
            body: bytes = answer.read()
        return body

    with TruthEngine(QUICK, tmp_path, model="some-model") as engine:
        assert json.loads(get("/v1/models"))["data"][0]["id"] == "some-model"
        assert "simulated" in json.loads(get("/version"))["engine"]
        assert get("/health") == b""
        with pytest.raises(urllib.error.HTTPError) as refused:
            get("/metrics")
        refused.value.close()


@pytest.mark.skipif(shutil.which("gcc") is None or not has_tls(), reason="needs OpenSSL's headers")
def test_https_keeps_the_same_schedule(tmp_path: Path) -> None:
    with TruthEngine(QUICK, tmp_path, tls=True) as engine:
        stream = ask(engine, "secret", stream=True)
    (answer,) = engine.log.answers

    assert stream.endswith("data: [DONE]\n\n")
    assert (answer.request_id, len(answer.writes_ns)) == ("secret", 5)


def test_a_file_that_is_not_a_log_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other"
    file.write_bytes(bytes(200))

    with pytest.raises(ValueError, match="byte 0"):
        TruthLog.read(file)
