"""What a user gets wrong costs one line that says what to do, exit code 2, and no traceback."""

from pathlib import Path

import pytest

from tests.loadgen.conftest import Ended, Locust, StartEngine, WriteScenario

LOAD = "users = 1\nrequests = 1"


def check(ended: Ended, says: str, code: int = 2) -> None:
    ours = [line for line in ended.err.splitlines() if line.startswith("llmload: ")]
    assert ended.code == code, ended.err
    assert len(ours) == 1, ended.err
    assert says in ours[0]
    assert "Traceback" not in ended.err + ended.out
    assert ended.found is None, "nothing was sent, so there is nothing to keep"


def test_a_misspelt_key(locust: Locust, write_scenario: WriteScenario) -> None:
    check(
        locust.run("--config", str(write_scenario("http://127.0.0.1:1", "users = 1\nreqests = 1"))),
        "test.toml: load.reqests: unknown key (value 1); did you mean requests?",
    )


def test_a_value_on_the_command_line(locust: Locust, engine: StartEngine, write_scenario: WriteScenario) -> None:
    file = str(write_scenario(engine().url, LOAD))

    check(
        locust.run("--config", file, "--requests", "some"), "command line: load.requests: input should be a valid int"
    )


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("load.userz=2", "command line: load.userz: unknown key (value 2); did you mean users?"),
        ("load.users", "command line: --set load.users: is not KEY=VALUE"),
        ("load.users=many", "command line: load.users: input should be a valid integer, got 'many'"),
    ],
)
def test_a_setting(locust: Locust, engine: StartEngine, write_scenario: WriteScenario, setting: str, says: str) -> None:
    check(locust.run("--config", str(write_scenario(engine().url, LOAD)), "--set", setting), says)


def test_a_report_that_cannot_be_written(locust: Locust, engine: StartEngine, write_scenario: WriteScenario) -> None:
    scenario = str(write_scenario(engine().url, LOAD))

    ended = locust.run("--config", scenario, "--junit", "nowhere/x.xml")

    assert ended.code == 2
    assert "argument --junit: nowhere/x.xml cannot be written: there is no folder nowhere" in ended.err
    assert ended.found is None


def test_an_engine_that_is_down(locust: Locust, write_scenario: WriteScenario) -> None:
    ended = locust.run("--config", str(write_scenario("http://127.0.0.1:1", LOAD)))

    check(ended, "the engine at http://127.0.0.1:1 does not answer (Connection refused): start it, or give its address")


def test_a_host_that_has_no_address(locust: Locust, write_scenario: WriteScenario) -> None:
    ended = locust.run("--config", str(write_scenario("http://no-such-host.invalid", LOAD)))

    check(ended, "the host of http://no-such-host.invalid has no address")
    assert "does not answer" not in ended.err


def test_a_model_that_is_not_served(locust: Locust, engine: StartEngine, write_scenario: WriteScenario) -> None:
    file = str(write_scenario(engine(model="other").url, LOAD))

    check(locust.run("--config", file), "does not serve model 'simulated' but other")


def test_a_worker_without_a_user(locust: Locust, engine: StartEngine, write_scenario: WriteScenario) -> None:
    file = str(write_scenario(engine().url, "users = 1\nrequests = 4"))

    check(locust.run("--config", file, "--processes", "2"), "load.users = 1 is fewer than the 2 workers that share")


def test_a_key_that_is_not_set(locust: Locust, engine: StartEngine, write_scenario: WriteScenario) -> None:
    file = write_scenario(engine().url, LOAD)
    file.write_text(file.read_text().replace("[model]", 'api_key_env = "LLMLOAD_NO_SUCH_KEY"\n[model]'))

    check(locust.run("--config", str(file)), "the environment variable LLMLOAD_NO_SUCH_KEY is not set")


def test_a_wrong_key(locust: Locust, engine: StartEngine, write_scenario: WriteScenario) -> None:
    file = write_scenario(engine(api_key="right").url, LOAD)
    file.write_text(file.read_text().replace("[model]", 'api_key_env = "MY_KEY"\n[model]'))

    ended = locust.run("--config", str(file), env={"MY_KEY": "hunter2"})

    check(ended, "is the key in engine.api_key_env's variable the right one?")
    assert "hunter2" not in ended.err + ended.out


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nowhere.jsonl", "nowhere.jsonl"),
        ("empty.jsonl", "empty.jsonl"),
        ("broken.jsonl", "broken.jsonl"),
        ("lima", "GAIR/lima"),
    ],
)
def test_prompts_that_cannot_be_loaded(
    locust: Locust, engine: StartEngine, write_scenario: WriteScenario, tmp_path: Path, source: str, says: str
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text('{"conversations": [\n')
    file = str(write_scenario(engine().url, LOAD, f'[prompts]\nsource = "{source}"'))

    check(locust.run("--config", file), says)


def test_more_requests_than_prompts(
    locust: Locust, engine: StartEngine, write_scenario: WriteScenario, tmp_path: Path
) -> None:
    (tmp_path / "one.jsonl").write_text('{"conversations": ["hello"]}\n')
    file = str(write_scenario(engine().url, "users = 1\nrequests = 2", '[prompts]\nsource = "one.jsonl"'))

    check(locust.run("--config", file), "load.requests: 2 requests, but prompts.source 'one.jsonl' gives 1")


def test_an_engine_that_dies_during_the_run_loses_no_record_and_fails_it(
    locust: Locust, engine: StartEngine, write_scenario: WriteScenario
) -> None:
    url = engine(faults={"reset": 1.0}, ttft_s=0.01, output_tokens=4).url

    ended = locust.run("--config", str(write_scenario(url, "users = 2\nrequests = 6")))

    assert ended.code == 3, ended.err
    assert "Traceback" not in ended.err
    first = ended.summary["verdict"]["reasons"][0]
    assert first["check"] == "error_share"
    assert first["text"].startswith(f"all 6 requests failed: {next(iter(ended.summary['requests']['errors']))}, ")
    assert ended.summary["requests"]["failed"] == 6
    assert ended.summary["ttft_s"] is None
    assert ended.summary["requests_per_min"] == 0
