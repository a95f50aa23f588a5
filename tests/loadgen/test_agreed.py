"""What a worker does of what its master asks: nothing that its own scenario does not name."""

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

from llmload.errors import ConfigError
from llmload.loadgen.agreed import agreed
from llmload.loadgen.messages import WorkerPlan, parse
from llmload.loadgen.preparation import Preparation
from llmload.scenario import Scenario, load_scenario

OWN = """
[scenario]
name = "own"
protocol = "throughput"
[engine]
name = "vllm"
base_url = "http://engine:8000"
api_key_env = "ENGINE_KEY"
[model]
name = "m"
[load]
kind = "closed_loop"
users = 2
requests = 4
[prompts]
source = "p.jsonl"
repeat = true
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENGINE_KEY", "sk-secret")
    monkeypatch.setenv("ANOTHER", "another secret")
    (tmp_path / "own").mkdir()
    for folder in (tmp_path, tmp_path / "own"):
        (folder / "p.jsonl").write_text('{"prompt": "hello"}\n')
    written = tmp_path / "own" / "own.toml"
    written.write_text(OWN)
    return written


def ask(file: Path, change: Callable[[str], str], own: str = OWN) -> Scenario:
    """Return what a worker with this scenario does of one that its master changed; both go through a message."""
    file.write_text(own)
    named = load_scenario(file)
    theirs = file.with_name("theirs.toml")
    theirs.write_text(change(own))
    preparation = Preparation(file)
    preparation._check_key(named, argparse.Namespace(settings=[]))
    plan = WorkerPlan(run_id="run", scenario=load_scenario(theirs), workers=("w",))
    return agreed(parse(WorkerPlan, plan.to_wire()).scenario, named, preparation)


def replaced(old: str, new: str) -> Callable[[str], str]:
    assert old in OWN
    return lambda text: text.replace(old, new)


def test_a_run_is_written_where_the_worker_has_its_runs(file: Path) -> None:
    scenario = ask(file, lambda text: f'{text}\n[run]\nfolder = "/etc/llmload"\ndrain_timeout_s = 3.0')

    assert (scenario.run.folder, scenario.run.drain_timeout_s) == ("runs", 3.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (replaced('"ENGINE_KEY"', '"ANOTHER"'), "engine.api_key_env: the master asks for another than this worker's"),
        (replaced("engine:8000", "elsewhere:8000"), "would have this worker send its key to http://elsewhere:8000"),
        (replaced("http://engine", "https://engine"), "would have this worker send its key to https://engine:8000"),
        (replaced('"http://engine:8000"', '["http://engine:8000", "http://b:1"]'), "its key to http://b:1"),
        (replaced("[model]", "verify_tls = false\n[model]"), "engine.verify_tls: the master asks for another"),
        (replaced("[model]", 'ca_file = "/tmp/ca.pem"\n[model]'), "engine.ca_file: the master asks for another"),
        (replaced('"p.jsonl"', '"/etc/passwd"'), "prompts.source: the master asks for /etc/passwd"),
        (replaced('"p.jsonl"', '"../../../etc/passwd"'), "prompts.source: the master asks for ../../../etc/passwd"),
    ],
)
def test_what_its_own_scenario_does_not_name_is_refused(file: Path, change: Callable[[str], str], says: str) -> None:
    with pytest.raises(ConfigError, match="start") as refused:
        ask(file, change)

    assert says in str(refused.value)
    assert "secret" not in str(refused.value)


def test_where_its_scenario_names_no_key_none_is_read(file: Path) -> None:
    own = OWN.replace('api_key_env = "ENGINE_KEY"\n', "")

    with pytest.raises(ConfigError, match=r"engine\.api_key_env"):
        ask(file, lambda text: text.replace("[model]", 'api_key_env = "ANOTHER"\n[model]'), own)


@pytest.mark.parametrize(
    "change",
    [
        replaced("users = 2", "users = 4"),
        replaced('"m"', '"n"'),
        replaced('"p.jsonl"', '"builtin"'),
        replaced('"p.jsonl"', '"sub/q.jsonl"'),
        replaced("http://engine:8000", "http://engine:8000/v1"),
    ],
)
def test_another_load_is_what_a_master_is_for(file: Path, change: Callable[[str], str]) -> None:
    asked = ask(file, change)

    assert asked.engine.api_key_env == "ENGINE_KEY"


def test_where_no_key_is_sent_any_engine_may_be_measured(file: Path) -> None:
    own = OWN.replace('api_key_env = "ENGINE_KEY"\n', "")

    asked = ask(file, lambda text: text.replace("engine:8000", "elsewhere:8000"), own)

    assert asked.engine.base_url == ["http://elsewhere:8000"]
