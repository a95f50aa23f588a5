"""`LlmUser`: what a locustfile says, what is sent, and what comes back; then whole runs, with rows by name."""

from locust.env import Environment
from locust.exception import RescheduleTask

import csv
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gevent
import orjson
import pytest
from gevent import GreenletExit

import llmload
from llmload.client.api import ChatApi
from llmload.client.client import WireClient
from llmload.client.settings import ClientSettings
from llmload.client.words import Words
from llmload.errors import ConfigError
from llmload.loadgen import own_users, users
from llmload.loadgen.node import SendingNode
from llmload.loadgen.own_users import Answer, Llm, LlmUser, MeasuredUser, Prompts, RequestFailed, check_load
from llmload.loadgen.session import ABSENT_PAUSE_S, Session
from llmload.loadgen.users import ChatUser
from llmload.prompts.conversation import Conversation, Prompt, as_message
from llmload.prompts.lengths import NOTHING_ASKED, Asked
from llmload.prompts.workload import EXACT_OUTPUT, Calibration
from llmload.record import ErrorType, Outcome, RequestError, RequestRecord
from llmload.scenario import load_scenario
from llmload.scenario.reading import find_scenario
from tests.loadgen.conftest import Ended, Locust, StartEngine
from tests.loadgen.forked import ROOT

TOOL = {"type": "function", "function": {"name": "f"}}


class Resting(Exception):  # noqa: N818 - in place of the end of a greenlet
    """The user rests, or has ended."""


@dataclass
class Engine:
    """A session whose answers are given: texts, or records that failed; it notes what was sent."""

    answers: list[str | RequestRecord | None]
    sent: list[Prompt] = field(default_factory=list)
    salt: str | None = None

    def send(self, prompt: Prompt, count: Any, *, words: Words) -> RequestRecord | None:
        said = self.answers.pop(0)
        self.sent.append(prompt)
        if isinstance(said, str):
            words.take_choice({"message": {"content": said, "tool_calls": [{"id": "i", **TOOL}] if said == "" else []}})
            return record(prompt.prompt_id)
        return said

    def check(self, prompt: Prompt) -> None:
        orjson.dumps(prompt.fields)

    def salted(self, prompt: Prompt, *, repeated: bool = False) -> Prompt:
        return prompt if self.salt is None else prompt.salted(self.salt)

    def next_conversation(self) -> Conversation | None:
        return Conversation(7, (Prompt("7", (as_message("user", "hello"),)),)) if self.answers else None


def record(prompt_id: str = "p", outcome: Outcome = Outcome.COMPLETED, kind: ErrorType | None = None) -> RequestRecord:
    error = None if kind is None else RequestError(type=kind, message="words")
    return RequestRecord(
        request_id="r", prompt_id=prompt_id, started_ns=0, done_ns=1, outcome=outcome, error=error, output_tokens=3
    )


class RestingUser:
    def rest_or_end(self) -> None:
        raise Resting


def user_of(engine: Engine | None) -> tuple[Llm, Prompts]:
    node = cast("SendingNode", SimpleNamespace(session=engine, environment=SimpleNamespace()))
    user = cast("MeasuredUser", RestingUser())
    return Llm(user, node), Prompts(user, node)


def test_a_text_is_a_users_words_with_its_name_and_fields() -> None:
    engine = Engine(["fine"])
    answer = user_of(engine)[0].chat("How are you?", name=" ask\n", max_tokens=8, tools=[TOOL], top_p=0.5)

    (sent,) = engine.sent
    assert sent.messages == ({"role": "user", "content": "How are you?"},)
    assert sent.name == "ask"
    assert sent.fields == {"max_tokens": 8, "tools": [TOOL], "top_p": 0.5}
    assert (answer.ok, answer.text, answer.usage.output_tokens, answer.error) == (True, "fine", 3, None)


def test_a_field_that_is_none_is_not_sent() -> None:
    engine, api = (
        Engine(["a", "b"]),
        ChatApi(ClientSettings(base_urls=("http://e",), model="m", body={"max_tokens": 64})),
    )
    llm, _ = user_of(engine)
    llm.chat("x", max_completion_tokens=5, stop=None)
    llm.chat("x")

    own, scenarios = (orjson.loads(api.encode(prompt)) for prompt in engine.sent)
    assert own["max_completion_tokens"] == 5
    assert own.keys() & {"max_tokens", "stop"} == set()
    assert scenarios["max_tokens"] == 64


@pytest.mark.parametrize(
    ("own", "sent", "asked"),
    [
        ({}, {"max_tokens": 128, "ignore_eos": True, "min_tokens": 128}, 128),
        ({"top_p": 0.5}, {"max_tokens": 128, "ignore_eos": True, "min_tokens": 128, "top_p": 0.5}, 128),
        ({"max_tokens": 8}, {"max_tokens": 8, "ignore_eos": True, "min_tokens": 8}, 8),
        (
            {"max_completion_tokens": 8},
            {"max_tokens": None, "max_completion_tokens": 8, "ignore_eos": True, "min_tokens": 8},
            8,
        ),
        ({"max_tokens": 8, "ignore_eos": False}, {"max_tokens": 8, "ignore_eos": False}, None),
        ({"min_tokens": 4}, {"max_tokens": 128, "min_tokens": 4}, None),
    ],
)
def test_an_answers_requested_length_is_the_one_that_is_sent(
    own: dict[str, Any], sent: dict[str, Any], asked: int | None
) -> None:
    engine, calibration = Engine(["a"]), Calibration(output_fields=EXACT_OUTPUT)
    given = Prompt("7", (as_message("user", "x"),), fields=calibration.output(128), asked=Asked(64, 128))
    user_of(engine)[0].chat(given, **own)

    assert (engine.sent[0].fields, engine.sent[0].asked) == (sent, Asked(64, asked))


def test_a_limit_leaves_an_answer_without_a_length_where_none_was_requested() -> None:
    engine = Engine(["a"])
    user_of(engine)[0].chat("x", max_tokens=8)

    assert engine.sent[0].asked == NOTHING_ASKED


@pytest.mark.parametrize(
    ("api", "message"),
    [
        ("openai-chat", {"role": "user", "content": {1, 2}}),
        ("tgi-generate", {"role": "tool", "content": "x"}),
        ("tgi-generate", {"role": "user"}),
    ],
)
def test_what_cannot_be_sent_is_refused(api: Any, message: dict[str, Any]) -> None:
    client = WireClient(ClientSettings(base_urls=("http://e",), model="m", api=api))
    session = cast("Session", SimpleNamespace(_client=client, salted=lambda prompt: prompt))

    with pytest.raises(ValueError, match="these messages"):
        Session.check(session, own_users._prompt([message], session))


def test_the_same_words_are_the_same_prompt_in_every_run() -> None:
    engine = Engine(["a", "b", "c"])
    for text in ("x", "x", "y"):
        user_of(engine)[0].chat(text)
    first, second, third = (prompt.prompt_id for prompt in engine.sent)

    assert first == second != third


def test_a_conversation_is_carried_on_with_the_engines_words() -> None:
    engine = Engine(["one", "two"], salt="s")
    llm, prompts = user_of(engine)
    answer = llm.chat(prompts.next(), name="first")
    llm.chat(answer.then("And then?"))

    assert [message["content"] for message in engine.sent[1].messages] == ["s\nhello", "one", "And then?"]
    assert [message["role"] for message in engine.sent[1].messages] == ["user", "assistant", "user"]
    assert [prompt.prompt_id for prompt in engine.sent] == ["7", "7.2"]
    assert engine.sent[1].name == "chat"


def test_calls_of_tools_and_their_results_go_back() -> None:
    engine = Engine(["", "done"])
    llm, _ = user_of(engine)
    answer = llm.chat("umbrella?", tools=[TOOL])
    llm.chat(answer.then(*(call.result("rain") for call in answer.tool_calls)))

    _, said, result = engine.sent[1].messages
    assert cast("Any", said)["tool_calls"] == [
        {"id": "i", "type": "function", "function": {"name": "f", "arguments": ""}}
    ]
    assert result == {"role": "tool", "tool_call_id": "i", "content": "rain"}


def test_a_failure_is_an_answer_or_an_exception_and_nothing_follows_it() -> None:
    failed = record(outcome=Outcome.FAILED, kind=ErrorType.HTTP_SERVER_ERROR)
    llm, _ = user_of(Engine([failed, failed]))
    answer = llm.chat("x")

    assert not answer.ok
    assert answer.error is not None
    assert answer.tool_calls == ()
    with pytest.raises(RescheduleTask):
        answer.then("and?")
    with pytest.raises(RequestFailed, match="http_5xx: words") as raised:
        llm.chat("x", catch=False)
    assert isinstance(raised.value.answer, Answer)


def test_a_user_pauses_where_no_engine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(gevent, "sleep", slept.append)
    user_of(Engine([record(outcome=Outcome.FAILED, kind=ErrorType.CONNECT_REFUSED)]))[0].chat("x")

    assert slept == [ABSENT_PAUSE_S]


def test_a_request_that_is_cut_ends_the_user() -> None:
    with pytest.raises(GreenletExit):
        user_of(Engine([record(outcome=Outcome.CENSORED)]))[0].chat("x")


@pytest.mark.parametrize("engine", [None, Engine([None]), Engine([])])
def test_a_user_rests_when_nothing_more_is_sent(engine: Engine | None) -> None:
    llm, prompts = user_of(engine)
    with pytest.raises(Resting):
        llm.chat(prompts.next())


@pytest.mark.parametrize("field", ["model", "messages", "stream", "stream_options"])
def test_what_llmload_sends_itself_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match="llmload sends this field itself"):
        user_of(Engine(["x"]))[0].chat("x", **cast("Any", {field: 1}))
    with pytest.raises(ValueError, match="at least one message"):
        user_of(Engine(["x"]))[0].chat([])


class Own(LlmUser):
    abstract = True


@pytest.mark.parametrize(
    ("classes", "scenario", "refused"),
    [
        ([Own], "demo", False),
        ([Own], "demo-staged", False),
        ([Own], "demo-open-loop", True),
        ([Own], "demo-capacity", True),
        ([ChatUser], "demo-open-loop", False),
    ],
)
def test_loads_that_send_by_themselves_are_refused_to_own_users(
    classes: list[type[Any]], scenario: str, refused: bool
) -> None:
    environment, load = (
        cast("Environment", SimpleNamespace(user_classes=classes)),
        load_scenario(find_scenario(scenario)).load,
    )
    if refused:
        with pytest.raises(ConfigError, match="Own is an LlmUser"):
            check_load(environment, load)
    else:
        check_load(environment, load)


def test_the_package_stays_lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, llmload; assert 'locust' not in sys.modules; assert 'gevent' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

    joined: list[bool] = []
    monkeypatch.setattr(users, "join", lambda: joined.append(True))  # not to this process, whose tests have their own
    assert llmload.LlmUser is LlmUser
    assert joined
    with pytest.raises(AttributeError, match="has no attribute 'LlmUsr'"):
        llmload.LlmUsr  # noqa: B018 - what a locustfile may mistype


MINE = """
from locust import HttpUser
from llmload import LlmUser, constant, task

class Assistant(LlmUser):
    wait_time = constant(0.05)
    @task(3)
    def ask(self):
        answer = self.llm.chat("What is a KV cache?", max_tokens=4, name="ask")
        self.llm.chat(answer.then("Shorter, please."), max_tokens=2, name="follow-up")
    @task
    def prompt(self):
        answer = self.llm.chat(self.prompts.next(), max_tokens=4, name="prompt")
        assert FINE or not answer.text, "nothing like it"

class Visitor(HttpUser):
    wait_time = constant(0.1)
    @task
    def look(self):
        self.client.get("/health")
"""


def run_mine(engine: StartEngine, locust: Locust, tmp_path: Path, fine: bool, *further: str) -> Ended:
    file = tmp_path / "mine.py"
    file.write_text(f"FINE = {fine}\n{MINE}")
    url = engine(ttft_s=0.01, itl_s=0.001, model="m").url
    return locust.run(
        *("-f", str(file), "-u", "4", "-t", "2s", "--host", url, "--metrics-port", "off"),
        *("--csv", str(tmp_path / "csv"), "--markdown", str(tmp_path / "page.md"), *further),
    )


@pytest.mark.parametrize("further", [(), ("--processes", "2")])
def test_rows_by_name_in_every_output(
    engine: StartEngine, locust: Locust, tmp_path: Path, further: tuple[str, ...]
) -> None:
    ended = run_mine(engine, locust, tmp_path, True, *further)

    assert ended.code == 0, ended.err
    names = {row["name"]: row for row in ended.summary["by_name"]}
    lines = ended.lines
    assert names.keys() == {"ask", "follow-up", "prompt"} == {line["name"] for line in lines}
    for name, row in names.items():
        assert row["completed"] == sum(line["name"] == name for line in lines)
    assert sum(row["completed"] for row in names.values()) == ended.summary["requests"]["completed"]
    assert ended.summary["other_users"]["requests"] > 0
    assert ended.summary["verdict"]["level"] != "INVALID"
    assert not [
        r for r in ended.summary["verdict"]["reasons"] if r["check"] in {"concurrency_shortfall", "window_edges"}
    ]
    assert all(name in ended.out for name in names)
    assert all(f"| {name} |" in (tmp_path / "page.md").read_text() for name in names)
    with (tmp_path / "csv_stats.csv").open() as file:
        rows = {(row["Type"], row["Name"]) for row in csv.DictReader(file)}
    assert {("LLM", name) for name in names} | {("TTFT", "ask"), ("GET", "/health")} <= rows


@pytest.mark.parametrize("further", [(), ("--processes", "2")])
def test_a_task_that_raises_makes_the_exit_code_1(
    engine: StartEngine, locust: Locust, tmp_path: Path, further: tuple[str, ...]
) -> None:
    ended = run_mine(engine, locust, tmp_path, False, "--summary", "json", *further)

    assert ended.code == 1, ended.err
    assert json.loads(ended.out)["requests"]["failed"] == 0
    assert "nothing like it" in str(ended.summary["other_users"]["most_frequent"])


def test_every_example_runs(engine: StartEngine, locust: Locust) -> None:
    url = engine(ttft_s=0.01, itl_s=0.001, output_tokens=4, model="m").url
    files = ",".join(
        str(ROOT / "locustfiles" / f"{name}.py") for name in ("assistant", "agent", "rag", "migrated", "chat")
    )

    ended = locust.run("-f", files, "-u", "10", "-t", "3s", "--host", url, "--metrics-port", "off")

    assert ended.code == 0, ended.err
    names = {row["name"] for row in ended.summary["by_name"]}
    assert {"ask", "follow-up", "first step", "answer from passages", "chat"} <= names
