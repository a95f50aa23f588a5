"""Numbers and texts that JSON cannot carry, from an engine, a scenario or prompts: said or read, and nothing hangs."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.loadgen.conftest import Locust, StartEngine, WriteScenario

QUICK = {"ttft_s": 0.02, "prefill_s_per_token": 0.0, "itl_s": 0.005, "itl_load_factor": 0.0, "output_tokens": 4}
ANSWER = (
    b'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}], "usage": '
    b'{"prompt_tokens": 3, "completion_tokens": 1}}\n\ndata: [DONE]\n\n'
)


@contextmanager
def engine_that_says(answers: dict[str, bytes]) -> Iterator[str]:
    """Serve these bodies by path, and one short answer to every request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = answers.get(self.path)
            self._send(404 if body is None else 200, body or b"", "application/json")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._send(200, ANSWER, "text/event-stream")

        def _send(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


MODELS = b'{"data": [{"id": "simulated", "created": %s}]}'
ODD_ANSWERS = {
    "a huge integer": {"/v1/models": MODELS % str(2**100).encode()},
    "an integer beyond Python's limit": {"/v1/models": MODELS % (b"1" * 5000)},
    "half of a pair in a name": {"/v1/models": rb'{"data": [{"id": "simulated"}, {"id": "\ud800"}]}'},
    "half of a pair in a key": {"/v1/models": rb'{"\udfff": 1, "data": [{"id": "simulated"}]}'},
    "NaN and infinity": {"/v1/models": MODELS % b"NaN", "/version": b'{"version": "1", "build": [Infinity, 1e999]}'},
    "a nest": {"/version": b'{"version": ' + b"[" * 900 + b"]" * 900 + b"}"},
    "a nest without an end": {"/info": b"[" * 200_000},
    "half of a pair as a version": {"/version": rb'{"version": "1\ud800"}', "/info": rb'{"model_id": {"\ud800": []}}'},
    "names of other types": {"/v1/models": b'{"data": [{"id": "simulated"}, {"id": null}, {"id": [1]}, 7, null]}'},
    "no object": {"/v1/models": b"[[1, 2], 3]", "/version": b'"\\ud800"', "/info": b"1e400", "/health": b"\xff\xfe"},
}


@pytest.mark.parametrize("odd", ODD_ANSWERS)
def test_what_an_engine_says_of_itself_hinders_no_run(locust: Locust, write_scenario: WriteScenario, odd: str) -> None:
    with engine_that_says(ODD_ANSWERS[odd]) as url:
        ended = locust.run("--config", str(write_scenario(url, "users = 1\nrequests = 2")), timeout_s=20.0)

    assert ended.code in {0, 3}, ended.err
    assert "Traceback" not in ended.err
    assert ended.summary["requests"]["completed"] == 2
    assert "internal_error" not in {reason["check"] for reason in ended.summary["verdict"]["reasons"]}
    assert ended.manifest["engine"]["base_url"] == url


def test_an_engines_metrics_may_be_odd(locust: Locust, write_scenario: WriteScenario) -> None:
    odd = b"""vllm:num_requests_running 1e400
vllm:num_requests_waiting NaN
vllm:generation_tokens_total 99999999999999999999999999999999999999999999
vllm:kv_cache_usage_perc{a="\xff"} -Inf
vllm:prompt_tokens_total{ 1
"""
    with engine_that_says({"/metrics": odd}) as url:
        monitor = f'[monitor]\nengine_metrics_url = "{url}/metrics"\ninterval_s = 0.1'
        ended = locust.run("--config", str(write_scenario(url, "users = 1\nrequests = 2", monitor)), timeout_s=20.0)

    assert ended.code in {0, 3}, ended.err
    assert "Traceback" not in ended.err
    assert "internal_error" not in {reason["check"] for reason in ended.summary["verdict"]["reasons"]}


DIGITS = "9" * 30


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (f"request.max_tokens={DIGITS}", "request.max_tokens: an integer of 30 digits is more than JSON carries"),
        (f"load.requests={DIGITS}", "load.requests: an integer of 30 digits"),
        (f"scenario.seed=-{DIGITS}", "scenario.seed: an integer of 30 digits"),
        (f"request.extra_body={{a = [{{b = {DIGITS}}}]}}", "request.extra_body.a.b: an integer of 30 digits"),
        ("request.extra_body={a = nan}", "request.extra_body.a: nan is not a finite number"),
        ("request.temperature=inf", "request.temperature: inf is not a finite number"),
        ("request.presence_penalty=nan", "request.presence_penalty: nan is not a finite number"),
        ("load.warmup_s=1e300", "load.warmup_s: input should be less than or equal to 1000000000"),
        ("client.timeouts.total_s=1e308", "client.timeouts.total_s: input should be less than or equal to 1000000000"),
        ("model.name=\udcff", r"model.name: '\udcff' has half of a surrogate pair"),
    ],
)
def test_a_setting_that_json_cannot_carry(
    locust: Locust, engine: StartEngine, write_scenario: WriteScenario, settings: str, says: str
) -> None:
    scenario = str(write_scenario(engine(**QUICK).url, "users = 1\nrequests = 2"))

    ended = locust.run("--config", scenario, "--set", settings, timeout_s=20.0)

    ours = [line for line in ended.err.splitlines() if line.startswith("llmload: ")]
    assert ended.code == 2, ended.err
    assert len(ours) == 1
    assert ours[0].startswith(f"llmload: command line: {says}")
    assert "Traceback" not in ended.err
    assert ended.found is None


def test_half_of_a_pair_in_a_prompt_is_replaced_and_said(
    locust: Locust, engine: StartEngine, write_scenario: WriteScenario, tmp_path: Path
) -> None:
    rows = [{"conversations": [text]} for text in ("a", "b \ud800 c", "d")]
    (tmp_path / "odd.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    file = write_scenario(engine(**QUICK).url, "users = 1\nrequests = 2", '[prompts]\nsource = "odd.jsonl"')

    ended = locust.run("--config", str(file), timeout_s=20.0)

    assert ended.code == 0, ended.err
    assert "prompts odd: half of a surrogate pair became U+FFFD (1 of 3 rows)" in ended.err
    assert ended.manifest["prompts"]["changed"] == {"half of a surrogate pair became U+FFFD": 1}


def test_a_command_line_that_is_not_utf8_is_written_down(
    locust: Locust, engine: StartEngine, write_scenario: WriteScenario, tmp_path: Path
) -> None:
    scenario = str(write_scenario(engine(**QUICK).url, "users = 1\nrequests = 2"))

    ended = locust.run("--config", scenario, "--csv", str(tmp_path / "a\udcffb"), timeout_s=20.0)

    assert ended.code in {0, 3}, ended.err
    assert str(tmp_path / "a\ufffdb") in ended.manifest["command"]
