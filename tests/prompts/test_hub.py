"""What the Hugging Face hub may answer, from a stand-in for it: the prompts, or one line that says what to do."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

TOKEN = "hf_thisIsNotARealTokenOnlyATest"
FILE = b'{"conversations": ["q0", "a0"], "source": "x"}\n{"conversations": ["q1", "a1"], "source": "x"}\n'
# Patched as Locust patches it, since that is where it runs.
LOAD = """
import gevent.monkey; gevent.monkey.patch_all()
import sys
from pathlib import Path
from llmload.errors import DataError
from llmload.prompts.workload import PromptPlan, load
try:
    workload = load(PromptPlan(source=sys.argv[1]), Path())
except DataError as error:
    print(f"refused: {error}")
else:
    import json
    print(json.dumps(workload.manifest()))
"""


@dataclass
class Hub:
    """A stand-in for the hub: one file, for requests with the right token."""

    path: str = "/datasets/GAIR/lima/resolve/main/train.jsonl"
    refusal: tuple[int, dict[str, str]] | None = None
    endpoint: str = ""
    tokens: list[str | None] = field(default_factory=list)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        if request.path.startswith("/datasets/"):
            self.tokens.append(request.headers["Authorization"])
        status, headers, body = self._answer_to(request.path)
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)

    def _answer_to(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if self.refusal is not None:
            return *self.refusal, b""
        if path != self.path:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": "0" * 40}, b""
        return 200, {"ETag": '"one"', "X-Repo-Commit": "0" * 40}, FILE


@pytest.fixture
def hub() -> Iterator[Hub]:
    stand_in = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            stand_in.answer(self)

        def do_HEAD(self) -> None:
            stand_in.answer(self)

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        stand_in.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield stand_in
        server.shutdown()
        thread.join()


def ask(endpoint: str, home: Path, source: str = "lima", **environment: str) -> str:
    """Load a source in a new process, as the library reads its environment once, and return its one line."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    asked = kept | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_TOKEN": TOKEN} | environment
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOAD, source],
        env=asked,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert TOKEN not in done.stdout + done.stderr
    assert done.stdout.count("\n") == 1
    return done.stdout


def test_lima_comes_from_the_hub_with_the_users_token_and_from_the_cache_afterwards(hub: Hub, tmp_path: Path) -> None:
    fetched = json.loads(ask(hub.endpoint, tmp_path))
    hub.refusal = (503, {})
    cached = json.loads(ask(hub.endpoint, tmp_path))

    assert set(hub.tokens) == {f"Bearer {TOKEN}"}
    assert fetched == cached == json.loads(ask(hub.endpoint, tmp_path, HF_HUB_OFFLINE="1"))
    assert (fetched["dataset"], fetched["source"], fetched["split"]) == ("lima", "hf:GAIR/lima", "train")
    assert (fetched["rows"], fetched["licence"]) == (2, "CC BY-NC-SA, or the source's own where stricter")


def test_any_file_of_a_hub_data_set_can_be_named(hub: Hub, tmp_path: Path) -> None:
    hub.path = "/datasets/someone/chats/resolve/main/data/a.jsonl"

    manifest = json.loads(ask(hub.endpoint, tmp_path, source="hf:someone/chats/data/a.jsonl"))

    assert (manifest["dataset"], manifest["source"]) == ("someone/chats", "hf:someone/chats/data/a.jsonl")
    assert manifest["licence"] is None


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        pytest.param(
            (status, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to dataset GAIR/lima is restricted."}),
            "accept its terms on https://huggingface.co/datasets/GAIR/lima, then set HF_TOKEN",
            id=f"gated-{status}",
        )
        for status in (401, 403)
    ]
    + [
        pytest.param(
            (404, {"X-Error-Code": "RepoNotFound"}), "there is none of that name, or it is private", id="none"
        ),
        pytest.param((404, {"X-Error-Code": "EntryNotFound"}), "it has no file 'train.jsonl'", id="no-file"),
        pytest.param(
            (401, {"X-Error-Message": "Invalid credentials in Authorization header"}), "refused the token", id="token"
        ),
        pytest.param((503, {}), "the hub answered with status 503", id="down"),
    ],
)
def test_a_refusal_says_what_to_do_at_once(
    hub: Hub, tmp_path: Path, refusal: tuple[int, dict[str, str]], says: str
) -> None:
    hub.refusal = refusal
    began_s = time.monotonic()

    line = ask(hub.endpoint, tmp_path)

    assert line.startswith("refused: hub data set 'GAIR/lima': ")
    assert says in line
    assert time.monotonic() - began_s < 5


def test_offline_is_reported_within_three_seconds(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}"
        began_s = time.monotonic()
        unreachable = ask(nowhere, tmp_path)
        unreachable_s = time.monotonic() - began_s
        switched_off = ask(nowhere, tmp_path, HF_HUB_OFFLINE="1")

    assert "the hub cannot be reached (ConnectError) and 'train.jsonl' is not in the cache" in unreachable
    assert unreachable_s < 3
    assert "HF_HUB_OFFLINE is set" in switched_off


def test_a_hub_that_never_answers_is_given_up_on(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        line = ask(
            f"http://127.0.0.1:{silent.getsockname()[1]}",
            tmp_path,
            HF_HUB_ETAG_TIMEOUT="1",
            HF_HUB_DISABLE_TELEMETRY="1",
        )

    assert "the hub cannot be reached (ReadTimeout)" in line


def test_a_token_that_cannot_be_sent_is_not_shown(hub: Hub, tmp_path: Path) -> None:
    assert "cannot be reached (UnicodeEncodeError)" in ask(hub.endpoint, tmp_path, HF_TOKEN=f"{TOKEN}é")
