"""A scenario is validated before anything is sent; every complaint names file, key and value."""

from pathlib import Path
from typing import Any

import pytest

from llmload.cli.scenarios import scenario_file, shipped_cells
from llmload.errors import ConfigError
from llmload.scenario import load_scenario
from llmload.scenario.reading import find_scenario, locustfile_named_by, shipped_locustfile, shipped_scenarios

GOOD = """
[tool.locust]
locustfile = "locustfiles/chat.py"
[scenario]
name = "mine"
[engine]
name = "vllm"
base_url = "http://127.0.0.1:8000"
[model]
name = "m"
[load]
kind = "closed_loop"
users = 4
requests = 8
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "x.toml"
    file.write_text(text, encoding="utf-8")
    return file


def complaint(folder: Path, text: str, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_scenario(write(folder, text), overrides)
    return str(caught.value)


def test_a_scenario_with_defaults_sends_only_what_it_sets(tmp_path: Path) -> None:
    scenario = load_scenario(write(tmp_path, GOOD + "[request]\nmax_tokens = 8\nextra_body = {top_k = 5}\n"))

    assert scenario.request.body() == {"max_tokens": 8, "top_k": 5}
    assert scenario.model.request_name == "m"
    assert scenario.engine.base_url == ["http://127.0.0.1:8000"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("users = 4", "userz = 4"), "x.toml: load.userz: unknown key (value 4); did you mean users?"),
        (("users = 4", 'users = "four"'), "x.toml: load.users: input should be a valid integer, got 'four'"),
        (("users = 4", "users = 0"), "x.toml: load.users: input should be greater than or equal to 1, got 0"),
        (("users = 4", "users = 9"), "x.toml: load: users = 9 is more than requests = 8"),
        (
            ("[load]", '[prompts]\nsalt = "x"\n[load]'),
            "x.toml: prompts.salt: input should be 'request' or 'run', got 'x'",
        ),
        (("[load]", '[prompts]\nsalt_key = "x"\n[load]'), "x.toml: prompts: salt_key = 'x' has no effect without salt"),
        (("[load]", '[cost]\ncurrency = "EUR"\n[load]'), "x.toml: cost: needs a price: price_per_hour, price_per"),
        (
            ("[load]", '[cost]\ncurrency = "EUR"\nprice_per_hour = -1\n[load]'),
            "x.toml: cost.price_per_hour: input should be greater than 0, got -1",
        ),
        (
            ("[load]", '[cost]\ncurrency = "EUR"\nprice_per_gpu_hour = 2.5\n[load]'),
            "x.toml: cost.price_per_gpu_hour needs the number of GPUs in deployment.gpus",
        ),
        (
            ("[load]", '[cost]\ncurrency = "EUR"\nprice_per_kwh = 0.3\n[load]'),
            "x.toml: cost.price_per_kwh needs the GPUs' energy counters: set monitor.dcgm_url",
        ),
        (
            ("[load]", '[cost]\ncurrency = "EUR"\nprice_per_million_input_tokens = 0.3\n[load]'),
            "belong together",
        ),
        (("[load]", "[cost]\nprice_per_hour = 1.0\n[load]"), "x.toml: cost.currency: is missing"),
        (("requests = 8", ""), "x.toml: load: needs requests or duration_s, or it never ends"),
        (("requests = 8", "duration_s = 5\nwarmup_s = 6"), "warmup_s = 6 leaves nothing of duration_s = 5"),
        (('name = "vllm"', 'name = "vlm"'), "x.toml: engine.name: input should be 'transformers', 'vllm'"),
        (("http://127.0.0.1:8000", "127.0.0.1:8000"), "write http://127.0.0.1:8000, got '127.0.0.1:8000'"),
        (("127.0.0.1:8000", "127.0.0.1:99999"), "x.toml: engine.base_url: its port is not a number from 1 to 65535"),
        (("127.0.0.1:8000", "h/v1/completions"), "is the address of another request than llmload sends: remove /compl"),
        (("127.0.0.1:8000", "me:hunter2@h"), "x.toml: engine.base_url: it must not contain a user or password"),
        (('[model]\nname = "m"', ""), "x.toml: model: is missing"),
        (
            ("closed_loop", "open_lop"),
            "'closed_loop', 'open_loop', 'spike', 'replay', 'staged', 'capacity', 'sweep', got 'open_lop'",
        ),
        (("[load]", "[slo]\nttft_s = 1\n[request]\nstream = false\n[load]"), "not measurable with request.stream"),
        (("[load]", "[request]\nignore_eos = true\n[load]"), "ignore_eos = true never ends without max_tokens"),
        (("[load]", "[request]\nseed = 1\nextra_body = {seed = 2}\n[load]"), "extra_body repeats seed"),
        (("[load]", "[prompts]\ncount = 5\n[load]"), "load.requests = 8 is more than prompts.count = 5"),
        (("[load]", "[deployment]\ngpus = 1\ntensor_parallel = 2\n[load]"), "tensor_parallel = 2 needs as many GPUs"),
        (
            (
                'base_url = "http://127.0.0.1:8000"',
                'base_url = "http://a"\napi = "tgi-generate"\n[client]\nkind="openai"',
            ),
            "client.kind = 'openai' does not support engine.api = 'tgi-generate'",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_fault_is_named_with_file_key_and_value(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    assert says in complaint(tmp_path, GOOD.replace(*change, 1))


SPIKE = """kind = 'spike'
base_rate_per_s = 2
burst_rate_per_s = 9
burst_s = 4
duration_s = 20
warmup_s = 1"""
CLOSED = """kind = "closed_loop"
users = 4
requests = 8
"""


@pytest.mark.parametrize(
    ("load", "says"),
    [
        ("kind = 'open_loop'\nduration_s = 5", "load.rate_per_s: is missing"),
        ("kind = 'open_loop'\nrate_per_s = 1\nduration_s = 5\nmax_inflight = 2", "did you mean max_in_flight?"),
        ("kind = 'open_loop'\nrate_per_s = 1\nduration_s = 5\ncv = 2", "cv = 2 belongs to arrivals = 'gamma'"),
        ("kind = 'open_loop'\nrate_per_s = 1", "load: needs requests or duration_s"),
        (SPIKE, "load.period_s: is missing"),
        (f"{SPIKE}\nperiod_s = 4", "burst_s = 4 leaves no time at the base rate in period_s = 4"),
        (f"{SPIKE}\nperiod_s = 20", "duration_s = 20 leaves no whole period of 20 s after warmup_s = 1"),
        (
            f"{SPIKE}\nperiod_s = 9".replace("= 9\nburst_s", "= 2\nburst_s"),
            "burst_rate_per_s = 2 is not above base_rate_per_s = 2",
        ),
        (f"{SPIKE}\nperiod_s = 9\ncv = 2", "cv = 2 belongs to arrivals = 'gamma'"),
        (f"{SPIKE}\nperiod_s = 9\nrequests = 2", "load.requests: unknown key"),
        ("kind = 'staged'\nstages = []", "load.stages: list should have at least 1 item"),
        ("kind = 'staged'\nstages = [{users = 1, rate_per_s = 1, duration_s = 1}]", "either users or rate_per_s"),
        (
            "kind = 'staged'\nstages = [{users = 1, duration_s = 1}, {rate_per_s = 1, duration_s = 1}]",
            "stages have users or rates, not some of each",
        ),
        (
            "kind = 'staged'\nstages = [{name='a', users = 1, duration_s = 1}, {name='a', users = 2, duration_s = 1}]",
            "two stages are called 'a'",
        ),
        ("kind = 'staged'\nwarmup_s = 2\nstages = [{users = 1, duration_s = 1}]", "leaves nothing of stage 1"),
        ("users = 1", "load.kind: is missing"),
        ("kind = 'capacity'", "load.objectives is missing: say what a load must meet"),
        (
            "kind = 'capacity'\nobjectives = ['ttft p95 < 1']",
            "load.objectives.0: no figure is called ttft; did you mean",
        ),
        ("kind = 'capacity'\nobjectives = ['requests_per_min > 9']", "does not say where a load is too high"),
        ("kind = 'capacity'\nobjectives = ['ttfa_s p95 > 1']", "is met by every load that is high enough"),
        ("kind = 'capacity'\nobjectives = ['ttft_s p95 > 1']", "is met by every load that is high enough"),
        (
            "kind = 'capacity'\nobjectives = ['ttft_from_schedule_s p95 < 1']",
            "is of an open loop, but search = 'users'",
        ),
        ("kind = 'capacity'\nobjectives = ['goodput_share > 0.9']", "but [slo] has no limit"),
        ("kind = 'capacity'\nobjectives = ['ttft_s p95 < 1']", "needs prompts.repeat = true"),
        (
            "kind = 'capacity'\nstart = 9\nat_most = 4",
            "at_least = 1, start = 9, at_most = 4 must be in ascending order",
        ),
        ("kind = 'capacity'\nstart = 1.5", "whole numbers where users are searched"),
        ("kind = 'capacity'\nstep_max_s = 5", "step_max_s = 5 is less than step_min_s = 10"),
        ("kind = 'capacity'\nconfidence = 95", "confidence = 95 must be at least 0.5 and below 1"),
        ("kind = 'capacity'\narrivals = 'constant'", "arrivals belongs to search = 'rate_per_s'"),
        ("kind = 'capacity'\nsearch = 'rate_per_s'\ncv = 2", "cv = 2 belongs to arrivals = 'gamma'"),
        ("kind = 'capacity'\nrequests = 5", "load.requests: unknown key"),
        ("kind = 'sweep'", "a sweep needs users or rates_per_s: give --set 'load.users=[1, 8, 64]'"),
        ("kind = 'sweep'\nusers = [1]\nrates_per_s = [1]", "leave one out, with --set 'load.users=[]' or"),
        ("kind = 'sweep'\nusers = [1_000_001]", "users.0: input should be less than or equal to 1000000, got 1000001"),
        ("kind = 'sweep'\nrates_per_s = [2e6]", "rates_per_s.0: input should be less than or equal to 1000000"),
        ("kind = 'closed_loop'\nrequests = 9\nusers = 1_000_001", "load.users: input should be less than or equal to"),
        ("kind = 'open_loop'\nrate_per_s = 2e6\nrequests = 9", "load.rate_per_s: input should be less than or equal"),
        ("kind = 'sweep'\nusers = [1, 4, 2]", "users = [1, 4, 2] must be in ascending order, each value once"),
        ("kind = 'sweep'\nrates_per_s = [1, 1]", "rates_per_s = [1.0, 1.0] must be in ascending order"),
        ("kind = 'sweep'\nusers = [0]", "load.users.0: input should be greater than or equal to 1"),
        ("kind = 'sweep'\nusers = [2]\ncv = 2", "cv = 2 belongs to arrivals = 'gamma'"),
        ("kind = 'sweep'\nusers = [2]\narrivals = 'constant'", "arrivals belongs to rates_per_s, an open loop"),
        ("kind = 'sweep'\nusers = [2]\npoint_max_s = 5", "point_max_s = 5 is less than point_min_s = 10"),
        ("kind = 'sweep'\nusers = [2]", "needs prompts.repeat = true"),
    ],
)
def test_an_impossible_load_is_refused(tmp_path: Path, load: str, says: str) -> None:
    assert says in complaint(tmp_path, GOOD.replace(CLOSED, load))


def test_every_fault_has_a_line(tmp_path: Path) -> None:
    text = complaint(tmp_path, GOOD.replace("users = 4", "users = -1").replace('name = "m"', "name = 7"))

    assert len(text.splitlines()) == 2


def test_a_fault_of_an_override_names_the_command_line(tmp_path: Path) -> None:
    assert complaint(tmp_path, GOOD, {"load.users": "many"}).startswith("command line: load.users:")


def test_a_password_in_a_url_is_refused_and_not_shown(tmp_path: Path) -> None:
    text = complaint(tmp_path, GOOD.replace("http://127", "http://me:hunter2@127"))

    assert "api_key_env" in text
    assert "hunter2" not in text


def test_broken_toml_names_the_line(tmp_path: Path) -> None:
    assert "x.toml: is not TOML" in complaint(tmp_path, "[engine\n")


@pytest.mark.parametrize(
    ("name", "changes", "also", "never"),
    [
        ("demo", {}, {"ttft_s p95", "requests_per_min", "goodput_share"}, {"itl_s p99", "e2e_from_schedule_s p50"}),
        ("lima-speed", {}, {"tpot_s mean"}, {"goodput_share"}),
        ("demo-open-loop", {}, {"ttft_from_schedule_s p95", "goodput_per_min"}, {"schedule_lag_s p99"}),
        ("demo-capacity", {}, {"ttft_s p95", "error_share"}, {"requests_per_min", "tpot_s mean"}),
    ],
)
def test_a_run_is_judged_by_what_it_is_run_for(
    name: str, changes: dict[str, Any], also: set[str], never: set[str]
) -> None:
    relied_on = set(load_scenario(find_scenario(name), changes).relied_on)

    assert also <= relied_on
    assert not never & relied_on


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: no such scenario file"):
        load_scenario(Path("nowhere.toml"))


def test_a_key_comes_from_the_environment_or_the_run_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, GOOD.replace('name = "vllm"', 'name = "vllm"\napi_key_env = "MY_KEY"'))
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ConfigError, match="MY_KEY is not set"):
        load_scenario(file).access()

    monkeypatch.setenv("MY_KEY", "secret")
    assert load_scenario(file).access().api_key == "secret"
    assert "secret" not in repr(load_scenario(file))


@pytest.mark.parametrize(
    ("key", "mistake"),
    [
        ("sec\u2013ret", "has U+2013 (en dash) as character 4, which an HTTP header cannot carry"),
        ("sec\x7fret", "has U+007F as character 4"),
        ("sec\nret", "has U+000A as character 4"),
        ("sec\udcffret", "has U+DCFF as character 4"),
        ("secret\r\n", "begins or ends with white space or a line break"),
        (" secret", "begins or ends with white space or a line break"),
        ("Bearer secret", "begins with the word Bearer"),
    ],
)
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(
    key: str, mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", key)
    scenario = load_scenario(write(tmp_path, GOOD.replace('name = "vllm"', 'name = "vllm"\napi_key_env = "MY_KEY"')))

    with pytest.raises(ConfigError, match=r"the key in the environment variable MY_KEY ") as refusal:
        scenario.access()

    assert mistake in str(refusal.value)
    assert "ret" not in str(refusal.value)


@pytest.mark.parametrize("name", [*shipped_scenarios(), *shipped_cells()])
def test_every_shipped_scenario_is_valid_and_named_after_its_file(name: str) -> None:
    file = scenario_file(name)
    scenario = load_scenario(file)

    assert name.rpartition("/")[2] == scenario.scenario.name
    assert scenario.scenario.protocol in {"speed", "throughput"}
    assert file.stem == scenario.scenario.name
    assert shipped_locustfile(Path(locustfile_named_by(file) or "").name).is_file()


def test_the_reference_deployments_are_all_there() -> None:
    cells = shipped_cells()

    assert len([name for name in cells if name.endswith("-speed")]) == 17  # 6 models x 3 engines, one cell was empty
    assert len([name for name in cells if name.endswith("-throughput")]) == 3


def test_an_unknown_name_is_answered_with_the_nearest_or_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match="no shipped scenario of that name; did you mean lima-speed"):
        find_scenario("lima-sped")
    with pytest.raises(
        ConfigError, match="no shipped scenario of that name; shipped are 1k-1k, 8k-1k, capacity, chat, "
    ):
        find_scenario("xyz")
    with pytest.raises(
        ConfigError, match="no shipped scenario of that name; did you mean reference/vllm-oasst-30b-speed"
    ):
        scenario_file("reference/vllm-oast-30b-speed")
