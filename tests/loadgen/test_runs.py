"""Whole runs as a user starts them: what comes back is what the engine did."""

import json
from pathlib import Path

import pytest

from llmload.cli.scenarios import scenario_file, shipped_cells
from llmload.runs.folder import RunFolder
from llmload.runs.loaded_run import read_summary
from llmload.scenario import load_scenario
from llmload.scenario.reading import shipped_scenarios
from tests.best_stamps import BEST_STAMPS
from tests.loadgen.conftest import Locust, StartEngine, WriteScenario, truth

FIXED = {"ttft_s": 0.1, "prefill_s_per_token": 0.0, "itl_s": 0.02, "itl_load_factor": 0.0, "output_tokens": 32}


@pytest.mark.timing
def test_known_delays_come_back_within_three_per_cent_at_8_users(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario
) -> None:
    url = engine(**FIXED, slots=8).url
    scenario = str(write_scenario(url, "users = 8\nrequests = 64"))
    e2e_s = 0.1 + 31 * 0.02
    true = {
        "ttft_s": 0.1,
        "tpot_s": 0.02,
        "itl_s": 0.02,
        "e2e_s": e2e_s,
        "request_output_tokens_per_s": 32 / e2e_s,
    }

    ended = locust.run("--config", scenario)
    measured = {name: ended.summary[name]["mean"] for name in true}

    assert ended.code == 0, ended.err
    assert measured == pytest.approx(true, rel=0.03)
    summary = ended.summary
    assert summary["requests_per_min"] == pytest.approx(8 / e2e_s * 60, rel=0.05)
    assert (summary["requests"]["completed"], summary["output_tokens"]) == (64, 64 * 32)
    assert (summary["token_source"], summary["stamp_source"]) == ("usage", BEST_STAMPS)
    assert summary["simulated"] is ended.manifest["engine"]["simulated"] is True

    page, users = (ended.folder / "report.html").read_text(), (ended.folder / "users.csv").read_text().splitlines()
    assert f"report: {ended.folder / 'report.html'}" in ended.out
    assert f"{summary['ttft_s']['p95'] * 1000:.1f}" in page
    assert users[0] == "unix_s,users"
    (ended.folder / "summary.json").unlink()
    again = read_summary(RunFolder(ended.folder)).model_dump(mode="json")
    for name in (*true, "requests_per_min", "output_tokens_per_s", "goodput_per_min"):
        assert again[name] == pytest.approx(summary[name]), "counted again from the requests"
    assert again["requests"] | {"dropped": 0, "lost_lines": 0} == summary["requests"]


@pytest.mark.timing
def test_the_openai_sdk_agrees_within_two_per_cent_at_4_streams_but_for_its_own_start_of_a_request(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario
) -> None:
    url = engine(**FIXED | {"output_tokens": 96}, slots=4).url
    scenario = str(write_scenario(url, "users = 4\nrequests = 8"))

    own, sdk = (locust.run("--config", scenario, "--set", f"client.kind={kind}").summary for kind in ("wire", "openai"))
    means = [{name: of[name]["mean"] for name in ("tpot_s", "itl_s", "e2e_s")} for of in (own, sdk)]

    assert means[1] == pytest.approx(means[0], rel=0.02)
    assert 0 < sdk["ttft_s"]["mean"] - own["ttft_s"]["mean"] < 0.03, "the SDK opens a connection for each request"
    assert (own["stamp_source"], sdk["stamp_source"]) == (BEST_STAMPS, "user")
    assert own["output_tokens"] == sdk["output_tokens"]


@pytest.mark.parametrize("processes", [[], ["--processes", "2"]], ids=["alone", "two-workers"])
def test_counts_files_and_the_engines_own_log_agree(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, tmp_path: Path, processes: list[str]
) -> None:
    log = tmp_path / "truth.jsonl"
    url = engine(**FIXED | {"output_tokens": 8}, log=log, faults={"http_500": 0.2, "reset": 0.1}).url
    scenario = write_scenario(url, "users = 6\nduration_s = 4", "[prompts]\nrepeat = true")

    ended = locust.run("--config", str(scenario), *processes)

    requests = ended.summary["requests"]
    assert ended.code == 1, ended.err
    assert requests["started"] == requests["completed"] + requests["failed"] + requests["censored"]
    assert requests["started"] == len(ended.lines) == len(truth(log))
    assert set(requests["errors"]) == {"http_5xx", "reset"}
    opened_s, window_s = ended.summary["window_started_unix_s"], ended.summary["window_s"]
    ends_s = [line["time_s"] + line["e2e_s"] - opened_s for line in ended.lines if line["outcome"] == "completed"]
    in_window = sum(0 <= end_s <= window_s for end_s in ends_s)
    assert in_window == pytest.approx(requests["completed_in_window"], abs=2), "the window is where it is said to be"


def test_a_counted_run_on_two_workers_sends_each_drawn_prompt_once(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario
) -> None:
    url = engine(**FIXED | {"output_tokens": 2}).url
    scenario = write_scenario(url, "users = 4\nrequests = 25", "[prompts]\ncount = 25")

    ended = locust.run("--config", str(scenario), "--processes", "2")

    sent = sorted(int(line["prompt_id"]) for line in ended.lines)
    assert ended.code == 0, ended.err
    assert sent == sorted(ended.manifest["prompts"]["drawn"])
    assert len(list(ended.folder.glob("requests.worker-*.jsonl"))) == 2
    assert ended.summary["requests"]["completed"] == 25
    assert ended.summary["output_tokens"] == sum(line["output_tokens"] for line in ended.lines) == 50


def test_the_same_seed_sends_the_same_prompts_in_the_same_order(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario
) -> None:
    url = engine(**FIXED | {"output_tokens": 2}).url
    scenario = str(write_scenario(url, "users = 1\nrequests = 8", "[prompts]\ncount = 20"))

    orders = [
        [line["prompt_id"] for line in locust.run("--config", scenario, "--seed", seed).lines]
        for seed in ("7", "7", "8")
    ]

    assert orders[0] == orders[1] != orders[2]


def distinguishing_part(name: str) -> str:
    """What a scenario says to Locust and the engine, without what only tables show."""
    scenario = load_scenario(scenario_file(name)).model_dump(mode="json", exclude={"scenario", "model", "deployment"})
    for label in ("name", "label", "base_url"):
        del scenario["engine"][label]
    return json.dumps(scenario)


SHIPPED = [*reversed(list(shipped_cells())), *reversed(shipped_scenarios())]
DISTINCT = sorted({distinguishing_part(name): name for name in SHIPPED}.values())
"""One of each kind: most cells of the reference suite differ in their names alone."""


@pytest.mark.parametrize("name", DISTINCT)
def test_every_shipped_kind_of_scenario_runs(engine: StartEngine, locust: Locust, name: str) -> None:
    url = engine(**FIXED | {"output_tokens": 4}, model="m").url
    shorter = ["--requests", "4"] if name.endswith("speed") else ["--run-time", "2s", "--set", "load.warmup_s=0.5"]
    if "capacity" in name:
        quick = ("start=1", "at_most=2", "warmup_s=0.2", "step_min_s=1", "step_max_s=3", "step_min_requests=4")
        shorter = [word for setting in quick for word in ("--set", f"load.{setting}")]
        shorter += ["--set", 'load.objectives=["ttft_s p50 < 5"]']
    if "staged" in name:
        stages = "load.stages=[{users=2, duration_s=1.5}, {users=4, duration_s=1.5}]"
        shorter = ["--set", stages, "--set", "load.warmup_s=0.5"]
    if name.endswith("sweep"):
        points = ("users=[1, 2]", "rounds=1", "point_min_s=1", "requests_per_user=2")
        shorter = [word for setting in points for word in ("--set", f"load.{setting}")]
    if name.endswith("1k"):
        shorter += ["--output-tokens", "4", "--prompt-count", "20"]
    if "spike" in name:
        shorter += ["--set", "load.period_s=1.5", "--set", "load.burst_s=0.5"]

    ended = locust.run(
        "--config", str(scenario_file(name)), "--host", url, "--model", "m", "--prompts", "builtin", *shorter
    )

    assert ended.code == 0, ended.err
    assert ended.summary["requests"]["completed"] >= 4
    assert ended.summary["verdict"]["level"] in {"VALID", "DEGRADED"}


def test_what_outlasts_the_drain_is_cut_and_says_so(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario
) -> None:
    url = engine(**FIXED | {"output_tokens": 3000}).url
    scenario = write_scenario(url, "users = 3\nduration_s = 2", "[run]\ndrain_timeout_s = 1")

    ended = locust.run("--config", str(scenario))

    assert ended.code == 3, ended.err
    assert ended.summary["requests"] | {"errors": {}} == ended.summary["requests"]
    assert (ended.summary["requests"]["started"], ended.summary["requests"]["censored"]) == (3, 3)
    assert [line["outcome"] for line in ended.lines] == ["censored"] * 3
    assert ended.summary["verdict"]["level"] == "INVALID"


def test_every_turn_of_a_conversation_is_a_request(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, tmp_path: Path
) -> None:
    (tmp_path / "talk.jsonl").write_text(json.dumps({"conversations": ["a", "b", "c", "d", "e"]}) + "\n")
    url = engine(**FIXED | {"output_tokens": 2}).url
    further = '[prompts]\nsource = "talk.jsonl"\nturns = "all"'

    ended = locust.run("--config", str(write_scenario(url, "users = 1\nrequests = 3", further)))

    assert ended.code == 0, ended.err
    assert [line["prompt_id"] for line in ended.lines] == ["0.1", "0.2", "0.3"]
    tokens = [line["prompt_tokens"] for line in ended.lines]
    assert tokens == sorted(set(tokens)), "each turn carries all that was said before it"


def test_users_that_are_set_are_the_users_that_send(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario
) -> None:
    url = engine(**FIXED | {"itl_s": 0.005}, slots=8).url

    ended = locust.run("--config", str(write_scenario(url, "users = 6\nrequests = 12")), "--set", "load.users=3")

    assert ended.code == 0, ended.err
    assert ended.summary["load"]["users"] == 3
    spans = [(line["started_ns"], line["done_ns"]) for line in ended.lines]
    assert max(sum(start <= at < done for start, done in spans) for at, _ in spans) == 3


@pytest.mark.parametrize("processes", [[], ["--processes", "2"]], ids=["alone", "two-workers"])
def test_gates_decide_the_exit_code_and_are_reported_to_people_and_ci_systems(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, tmp_path: Path, processes: list[str]
) -> None:
    gates = '[gates]\nobjectives = ["ttft_s p95 < 5", "requests_per_min >= 1e9", "schedule_lag_s p99 < 1"]'
    scenario = write_scenario(engine(**FIXED | {"output_tokens": 2}).url, "users = 2\nrequests = 8", gates)
    xml, page = tmp_path / "gates.xml", tmp_path / "gates.md"

    ended = locust.run("--config", str(scenario), "--junit", str(xml), "--markdown", str(page), *processes)

    assert ended.code == 1, ended.err
    assert [gate["passed"] for gate in ended.summary["gates"]] == [True, False, False]
    assert "gate passed  ttft_s p95 0." in ended.out
    assert "gate FAILED  requests_per_min " in ended.out
    assert "gate FAILED  schedule_lag_s p99 not measured, required < 1" in ended.out
    assert 'failures="2"' in xml.read_text()
    assert "| **FAILED** | `schedule_lag_s p99 < 1` |" in page.read_text()


@pytest.mark.parametrize(
    ("keys", "salting"),
    [('repeat = "same"', None), ("repeat = true", "repeats"), ("repeat = true\nsalt = true", "request")],
)
def test_a_salt_keeps_the_prefix_cache_from_answering(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, keys: str, salting: str | None
) -> None:
    """The same prompts again and again, each long enough for a block of the cache, from two workers."""
    running = engine(ttft_s=0.01, prefill_s_per_token=0.0, itl_s=0.001, output_tokens=2, prefix_cache_tokens=100_000)
    further = f'[prompts]\ncount = 20\n{keys}\nchain_of_thought = "{"think " * 40}"'
    monitor = f'\n[monitor]\nengine_metrics_url = "{running.url}/metrics"'
    scenario = write_scenario(running.url, "users = 4\nrequests = 80", further + monitor)

    ended = locust.run("--config", str(scenario), "--processes", "2")

    summary, metrics, cached = ended.summary, ended.summary["engine_metrics"], salting is None
    assert summary["requests"]["completed"] == 80, ended.err
    assert (summary["cached_token_share"] > 0.1) is cached
    assert metrics["prefix_cache_hit_share"] == pytest.approx(summary["cached_token_share"])
    checks = {reason["check"] for reason in summary["verdict"]["reasons"]}
    assert ("cached_token_share" in checks) is cached
    assert "reused_prompt_share" not in checks  # how many tokens were cached is known
    assert summary["prompt_salt"] == salting
    kept = ended.manifest["prompts"]["salt"]
    assert kept == (None if cached else {"mode": salting, "key": summary["run_id"], "added_chars": 14})
