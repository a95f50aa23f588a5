"""Runs whose requests fail: the verdict, its first reason and the engine's words, for every load, on all processes."""

import json
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from threading import Thread
from typing import Any

import pytest

from llmload.runs.folder import RunFolder
from llmload.runs.loaded_run import read_summary
from tests.loadgen.conftest import Ended, Locust, StartEngine, WriteScenario

KEY = "sk-proj-Zq81mN4rT7vX2bLw"
REPEAT = "[prompts]\nrepeat = true"
KINDS = {
    "timed": "users = 2\nduration_s = 2",
    "counted": "users = 2\nrequests = 20",
    "open_loop": "rate_per_s = 20\nduration_s = 2",
    "replay": 'trace = "trace.csv"',
    "staged": "warmup_s = 0\nstages = [{users = 2, duration_s = 2}, {users = 3, duration_s = 2}]",
    "spike": "base_rate_per_s = 10\nburst_rate_per_s = 40\nburst_s = 1\nperiod_s = 2\nduration_s = 4",
    "capacity": 'objectives = ["ttft_s p95 < 5"]\nstart = 2\nat_most = 4\nwarmup_s = 0\nstep_min_s = 1\nstep_max_s = 2',
}
WORKERS = ["--processes", "2"]


class Refusing(BaseHTTPRequestHandler):
    """Serves a model, and refuses every request with the key, an id and a number that is different each time."""

    numbers = count(5000)
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(200, {"data": [{"id": "simulated"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        said = (
            f"{next(self.numbers)} tokens are more than 4096\n(request {uuid.uuid4()}, {self.headers['Authorization']})"
        )
        self._answer(400, {"error": {"message": f"\x1b[31m{said}"}})

    def _answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


WORDS = "# tokens are more than 4096 (request *, Bearer ***)"


@pytest.fixture
def refusing() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def run_load(locust: Locust, write_scenario: WriteScenario) -> Callable[..., Ended]:
    """Run a load of a kind against an engine with the key."""

    def run(kind: str, url: str, *arguments: str) -> Ended:
        file = write_scenario(url, KINDS[kind], REPEAT)
        (file.parent / "trace.csv").write_text("timestamp\n" + "".join(f"{0.1 * index}\n" for index in range(20)))
        own = "chat_staged.py" if kind == "staged" else "chat_capacity.py" if kind == "capacity" else "chat.py"
        text = file.read_text().replace("chat.py", own).replace("[model]", 'api_key_env = "TEST_KEY"\n[model]')
        if kind not in ("timed", "counted"):
            text = text.replace('kind = "closed_loop"', f'kind = "{kind}"')
        file.write_text(text)
        return locust.run("--config", str(file), *arguments, env={"TEST_KEY": KEY})

    return run


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [*((kind, []) for kind in KINDS), ("timed", WORKERS), ("staged", WORKERS), ("capacity", WORKERS)],
    ids=lambda each: each if isinstance(each, str) else "two-workers" if each else "alone",
)
def test_a_run_in_which_all_failed_is_invalid_and_says_so_first(
    run_load: Callable[..., Ended], refusing: str, kind: str, arguments: list[str]
) -> None:
    ended = run_load(kind, refusing, *arguments)

    requests, [first, *_] = ended.summary["requests"], ended.summary["verdict"]["reasons"]
    assert (ended.code, ended.summary["verdict"]["level"]) == (3, "INVALID"), ended.err
    assert (first["check"], first["level"]) == ("error_share", "INVALID")
    assert first["text"].startswith(f'all {requests["failed"]} requests failed: http_4xx (400), "{WORDS}": change what')
    assert requests["failures"] == [
        {"type": "http_4xx", "http_status": 400, "words": WORDS, "count": requests["failed"], "share": 1.0}
    ]
    assert WORDS in " ".join(ended.out.split())
    assert requests["failed"] == len(ended.lines) > 10


def test_the_key_is_nowhere_and_the_lines_give_the_same_failures(run_load: Callable[..., Ended], refusing: str) -> None:
    ended = run_load("timed", refusing, *WORKERS)
    files = [ended.out, ended.err, *(each.read_text() for each in ended.folder.iterdir() if each.is_file())]
    assert not [text for text in files if KEY[:8] in text]
    assert not [text for text in files if "\x1b[31m" in text or "[31m" in text]

    (ended.folder / "summary.json").unlink()
    recomputed = read_summary(RunFolder(ended.folder))

    failures = [each.model_dump() for each in recomputed.requests.failures]
    assert [(each["words"], each["count"]) for each in failures] == [(WORDS, len(ended.lines))]
    assert "http_4xx (400)" in " ".join(reason.text for reason in recomputed.verdict.reasons)


def test_a_part_that_failed_degrades_and_leads_with_the_most_frequent(
    run_load: Callable[..., Ended], engine: StartEngine
) -> None:
    quick = {"ttft_s": 0.01, "prefill_s_per_token": 0.0, "itl_s": 0.002, "output_tokens": 4}
    url = engine(**quick, faults={"http_500": 0.4, "html_error": 0.1, "reset": 0.05}, api_key=KEY).url

    ended = run_load("open_loop", url, "--set", "load.rate_per_s=60", "--progress", "0.5")

    requests, reasons = ended.summary["requests"], ended.summary["verdict"]["reasons"]
    assert ended.summary["verdict"]["level"] == "DEGRADED"
    first = next(reason for reason in reasons if reason["check"] == "error_share")
    assert first == reasons[0]
    names = [(each["type"], each["http_status"]) for each in requests["failures"]]
    assert names[0] == ("http_5xx", 500)
    assert len(names) == 3
    counts = [each["count"] for each in requests["failures"]]
    assert counts == sorted(counts, reverse=True)
    most = f'{counts[0]} of {requests["failed"]} with http_5xx (500), "{requests["failures"][0]["words"]}"'
    assert f"{most}: see the engine's log" in first["text"]
    assert "; failed: " in ended.err
    assert 'http_5xx (500), "Simulated fault' in ended.err
