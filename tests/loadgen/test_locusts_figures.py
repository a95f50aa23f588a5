"""Locust's own figures beside ours: `--csv` agrees with the summary, and other users count as Locust counts them."""

import csv
import re
from pathlib import Path

import pytest

from tests.loadgen.conftest import Locust, StartEngine, WriteScenario

NOISE = re.compile("WARNING|ERROR|CRITICAL|Traceback|Not all users finished")
SLOW = {"ttft_s": 0.4, "prefill_s_per_token": 0.0, "itl_s": 0.05, "itl_load_factor": 0.0, "output_tokens": 16}
"""An answer takes more than a second, so that many end in the drain."""


def rows(file: Path) -> dict[str, dict[str, str]]:
    with file.open(newline="") as text:
        return {f"{row['Type']} {row['Name']}".strip(): row for row in csv.DictReader(text)}


@pytest.mark.parametrize("processes", [1, 2])
def test_csv_holds_what_ended_in_the_drain(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, tmp_path: Path, processes: int
) -> None:
    url = engine(**SLOW, faults={"http_500": 0.2}).url
    scenario = write_scenario(url, "users = 6\nduration_s = 3", "[prompts]\nrepeat = true")
    several = ("--processes", "2") if processes > 1 else ()

    ended = locust.run("--config", str(scenario), "--csv", str(tmp_path / "l"), "--csv-full-history", *several)

    requests, table = ended.summary["requests"], rows(tmp_path / "l_stats.csv")
    expected = (str(requests["completed"] + requests["failed"]), str(requests["failed"]))
    for name in ("LLM chat", "Aggregated"):
        assert (table[name]["Request Count"], table[name]["Failure Count"]) == expected
    assert table["TTFT chat"]["Request Count"] == str(requests["completed"])
    with (tmp_path / "l_failures.csv").open(newline="") as text:
        assert sum(int(row["Occurrences"]) for row in csv.DictReader(text)) == requests["failed"]
    with (tmp_path / "l_stats_history.csv").open(newline="") as text:
        last = list(csv.DictReader(text))[-1]
    assert (last["Total Request Count"], last["Total Failure Count"]) == expected


@pytest.mark.parametrize("client", ["wire", "openai"])
def test_the_length_of_a_response_is_bytes(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, tmp_path: Path, client: str
) -> None:
    further = f'[prompts]\nrepeat = true\n[client]\nkind = "{client}"'
    scenario = write_scenario(engine(**SLOW).url, "users = 2\nrequests = 4", further)

    ended = locust.run("--config", str(scenario), "--csv", str(tmp_path / "l"))

    mean_bytes = float(rows(tmp_path / "l_stats.csv")["LLM chat"]["Average Content Size"])
    chunks = ended.lines[0]["chunks"]
    assert 100 * chunks < mean_bytes < 1000 * chunks, "an event is JSON of some hundred bytes"


def test_a_request_that_was_cut_is_neither_a_success_nor_a_failure_of_locusts(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, tmp_path: Path
) -> None:
    further = "[prompts]\nrepeat = true\n[run]\ndrain_timeout_s = 0.1"
    scenario = write_scenario(engine(**SLOW).url, "users = 6\nduration_s = 3", further)

    ended = locust.run("--config", str(scenario), "--csv", str(tmp_path / "l"))

    requests = ended.summary["requests"]
    assert requests["censored"]
    assert rows(tmp_path / "l_stats.csv")["LLM chat"]["Request Count"] == str(requests["completed"])


STAGES = "stages = [{users = 6, duration_s = 2}, {users = 2, duration_s = 2}, {users = 4, duration_s = 2}]"
SEARCH = """
search = "users"
objectives = ["e2e_s p95 < 50"]
start = 2
at_most = 4
warmup_s = 0.5
step_min_s = 1.5
step_max_s = 2
"""


@pytest.mark.parametrize(
    ("kind", "shape", "load", "further", "processes"),
    [
        ("closed_loop", "chat", "users = 120\nduration_s = 3", [], 1),
        ("closed_loop", "chat", "users = 120\nduration_s = 3", [], 2),
        ("closed_loop", "chat", "users = 6\nduration_s = 3", ["--stop-timeout", "3", "--drain-timeout", "0.1"], 2),
        ("staged", "chat_staged", STAGES, [], 1),
        ("capacity", "chat_capacity", SEARCH, [], 2),
    ],
    ids=["many users", "many users of two", "cut", "fewer users", "a search"],
)
def test_users_that_are_stopped_make_no_lines_in_the_log(
    engine: StartEngine,
    locust: Locust,
    write_scenario: WriteScenario,
    kind: str,
    shape: str,
    load: str,
    further: list[str],
    processes: int,
) -> None:
    scenario = write_scenario(engine(**SLOW).url, load, "[prompts]\nrepeat = true")
    text = scenario.read_text().replace('kind = "closed_loop"', f'kind = "{kind}"')
    scenario.write_text(text.replace("locustfiles/chat.py", f"locustfiles/{shape}.py"))
    several = ["--processes", "2"] if processes > 1 else []

    ended = locust.run("--config", str(scenario), "--metrics-port", "off", *further, *several)

    assert ended.summary["requests"]["completed"], ended.err
    assert not [line for line in ended.err.splitlines() if NOISE.search(line)]


MIXED = """
from locust import User, events, task
from llmload.loadgen.users import ChatUser, install

install(events)


class Chat(ChatUser):
    pass


class Other(User):
    fixed_count = 2

    @task
    def look(self):
        for exception in (None, ValueError("no such page")):
            self.environment.events.request.fire(
                request_type="GET", name="/page", response_time=1.0, response_length=2, exception=exception, context={}
            )
        self.wait()

    def wait_time(self):
        return 0.5


class Broken(User):
    fixed_count = 2

    @task
    def stumble(self):
        self.wait()
        raise KeyError("lost")

    def wait_time(self):
        return 0.5
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_what_fails_of_other_users_is_named_and_makes_the_exit_code_1(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, tmp_path: Path, processes: int
) -> None:
    mixed = tmp_path / "mixed.py"
    mixed.write_text(MIXED)
    scenario = write_scenario(engine(**SLOW).url, "rate_per_s = 4\nduration_s = 3", "[prompts]\nrepeat = true")
    scenario.write_text(scenario.read_text().replace('kind = "closed_loop"', 'kind = "open_loop"'))
    several = ("--processes", "2") if processes > 1 else ()

    ended = locust.run("--config", str(scenario), "-f", str(mixed), "-u", "5", "--csv", str(tmp_path / "l"), *several)

    others, table = ended.summary["other_users"], rows(tmp_path / "l_stats.csv")["GET /page"]
    assert ended.summary["verdict"]["level"] != "INVALID"
    assert ended.code == 1
    assert others["requests"] == 2 * others["failed"] > 0
    assert others["requests"] <= int(table["Request Count"])
    assert others["exceptions"] > 0
    texts = {each["text"] for each in others["most_frequent"]}
    assert any("GET /page: " in text and "no such page" in text for text in texts)
    assert "a task raised 'lost'" in texts
    assert "other users" in ended.out


def test_a_run_of_llmloads_users_alone_has_no_other_users(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario
) -> None:
    url = engine(**SLOW | {"ttft_s": 0.1}, faults={"http_500": 0.5}).url
    scenario = write_scenario(url, "users = 4\nrequests = 12", "[prompts]\nrepeat = true")

    ended = locust.run("--config", str(scenario), "--processes", "2")

    assert ended.summary["requests"]["failed"]
    assert "other_users" not in ended.summary
