"""The start form shows the scenario's values, a change there overrides one, and a wrong change is named."""

from locust.argument_parser import LocustArgumentParser, get_empty_argument_parser, setup_parser_arguments

import re
from pathlib import Path
from typing import Any

import click
import pytest

from llmload.cli.run import run
from llmload.errors import ConfigError
from llmload.loadgen.options import FORM, add_options, refuse_changes, refuse_meaningless, set_defaults
from llmload.scenario import Scenario, load_scenario
from llmload.scenario.options import GROUPS, OPTIONS

OPEN = 'kind = "open_loop"\nrate_per_s = 2.5\narrivals = "gamma"\ncv = 2\nduration_s = 30\nwarmup_s = 2'
CLOSED = 'kind = "closed_loop"\nusers = 4\nrequests = 40\nthink_time_s = 0.5'
STAGED = 'kind = "staged"\nstages = [{rate_per_s = 2, duration_s = 5}, {rate_per_s = 4, duration_s = 5}]'
SPIKE = 'kind = "spike"\nbase_rate_per_s = 2\nburst_rate_per_s = 9\nburst_s = 3\nperiod_s = 10\nduration_s = 60'
SWEEP = 'kind = "sweep"\nusers = [1, 8]\nrounds = 2'
REPLAY = 'kind = "replay"\ntrace = "trace.csv"'


@pytest.fixture
def scenario(tmp_path: Path) -> Any:
    def write(load: str, **overrides: Any) -> Scenario:
        file = tmp_path / "form.toml"
        file.write_text(
            f"""
[scenario]
name = "form"
seed = 7
[engine]
name = "vllm"
base_url = "http://127.0.0.1:8000"
[model]
name = "llama"
served_as = "/models/llama"
[prompts]
repeat = true
[request]
max_tokens = 64
[load]
{load}
"""
        )
        return load_scenario(file, overrides)

    return write


def shown(scenario: Scenario) -> dict[str, str]:
    return {option.dest: option.default_in(scenario) for option in FORM if option.fits(scenario)}


def test_the_form_begins_with_the_scenarios_values(scenario: Any) -> None:
    fields = shown(scenario(OPEN))

    assert fields == {
        "model": "llama",
        "engine": "vllm",
        "prompts": "builtin",
        "prompt_count": "",
        "input_tokens": "",
        "output_tokens": "",
        "max_tokens": "64",
        "temperature": "",
        "requests": "",
        "rate": "2.5",
        "arrivals": "gamma",
        "cv": "2",
        "max_in_flight": "10000",
        "warmup": "2",
        "seed": "7",
        "drain_timeout": "60",
    }


def test_only_what_the_load_has_is_in_the_form(scenario: Any) -> None:
    closed, staged, replay, spike, sweep = (shown(scenario(load)) for load in (CLOSED, STAGED, REPLAY, SPIKE, SWEEP))

    assert closed["think_time"] == "0.5"
    assert not {"rate", "arrivals", "cv", "speed", "max_in_flight"} & closed.keys()
    assert not {"rate", "requests"} & staged.keys()
    assert replay["speed"] == "1"
    assert {name: spike[name] for name in ("base_rate", "burst_rate", "burst", "period")} == {
        "base_rate": "2",
        "burst_rate": "9",
        "burst": "3",
        "period": "10",
    }
    assert not {"rate", "requests", "think_time"} & spike.keys()
    assert (sweep["rounds"], sweep["requests_per_user"]) == ("2", "10")
    assert {name for fields in (closed, staged, replay, spike, sweep, shown(scenario(OPEN))) for name in fields} == {
        option.dest for option in FORM
    }, "each option fits some load"


@pytest.mark.parametrize("load", [OPEN, CLOSED, STAGED, REPLAY, SPIKE])
def test_an_untouched_form_changes_nothing(scenario: Any, load: str) -> None:
    written = scenario(load)

    assert [option.changes(option.default_in(written), written) for option in FORM] == [{}] * len(FORM)
    assert [option.changes(" ", written) for option in FORM] == [{}] * len(FORM)


@pytest.mark.parametrize(
    ("field", "text", "changes"),
    [
        ("model", "qwen", {"model.name": "qwen", "model.served_as": "qwen"}),
        ("model", "3", {"model.name": "3", "model.served_as": "3"}),
        ("max_tokens", "16", {"request.max_tokens": 16}),
        ("warmup", "0.5", {"load.warmup_s": 0.5}),
        ("arrivals", "constant", {"load.arrivals": "constant"}),
        ("prompts", "lima", {"prompts.source": "lima"}),
    ],
)
def test_a_changed_field_is_laid_over_the_scenario(
    scenario: Any, field: str, text: str, changes: dict[str, Any]
) -> None:
    option = next(option for option in FORM if option.dest == field)

    assert option.changes(text, scenario(OPEN)) == changes


@pytest.mark.parametrize(
    ("field", "text", "says"),
    [
        ("max_tokens", "many", "request.max_tokens: input should be a valid integer, got 'many'"),
        ("max_tokens", "0", "request.max_tokens: input should be greater than or equal to 1, got 0"),
        ("warmup", "40", "warmup_s = 40 leaves nothing of duration_s = 30"),
        ("rate", "inf", "load.rate_per_s: inf is not a finite number"),
        ("rate", "-1", "load.rate_per_s: input should be greater than 0, got -1"),
        ("cv", "0", "load.cv: input should be greater than 0, got 0"),
        ("arrivals", "random", "load.arrivals: input should be 'constant', 'poisson' or 'gamma', got 'random'"),
        ("engine", "vlm", "'simulated' or 'other', got 'vlm'; did you mean vllm?"),
        ("seed", "1.5", "scenario.seed: input should be a valid integer, got 1.5"),
        ("speed", "2", "load.speed: unknown key (value 2)"),
    ],
)
def test_a_wrong_value_is_named_before_anything_is_sent(scenario: Any, field: str, text: str, says: str) -> None:
    option = next(option for option in FORM if option.dest == field)

    with pytest.raises(ConfigError) as error:
        scenario(OPEN, **option.changes(text, scenario(OPEN)))
    assert says in str(error.value)


def test_a_running_load_takes_another_rate_and_nothing_else(scenario: Any) -> None:
    running = scenario(OPEN)

    refuse_changes(running, scenario(OPEN, **{"load.rate_per_s": 9.0, "load.duration_s": 60.0}))
    with pytest.raises(ConfigError, match=r"request.max_tokens: cannot become 8 during the run .it is 64.: stop"):
        refuse_changes(running, scenario(OPEN, **{"load.rate_per_s": 9.0, "request.max_tokens": 8}))


def parser_for(scenario: Scenario) -> LocustArgumentParser:
    parser = get_empty_argument_parser(default_config_files=[])
    setup_parser_arguments(parser)
    add_options(parser)
    set_defaults(parser, scenario)
    return parser


def test_locust_shows_the_options_of_both_doors(scenario: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser_for(scenario(OPEN)).parse_args(["--help-llmload"])

    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert not [name for option in OPTIONS for name in option.names if f"{name} " not in shown.replace(",", " ")]
    assert re.findall(r"^(\w.*):$", shown, re.MULTILINE) == [*GROUPS]


def test_both_doors_have_each_option_by_the_same_names(scenario: Any) -> None:
    of_locust = {name for action in parser_for(scenario(OPEN))._actions for name in action.option_strings}
    of_run = {name for each in run.params if isinstance(each, click.Option) for name in each.opts}

    for option in OPTIONS:
        assert set(option.names) <= of_locust
        assert option.only_locust or set(option.names) <= of_run
    assert of_run - {name for option in OPTIONS for name in option.names} == {"--repeat", "--json", "--web"}


@pytest.mark.parametrize(
    ("load", "given", "says"),
    [
        (
            CLOSED,
            "--rate 5",
            "has no rate_per_s: leave the option out, or run a scenario of kind 'open_loop', such",
        ),
        (
            OPEN,
            "--users 5",
            "--users 5: a load of kind 'open_loop' has no users: leave the option out, or run",
        ),
        (OPEN, "-r 2", "--spawn-rate 2: a load of kind 'open_loop' has no spawn_rate_per_s"),
        (OPEN, "--think-time 2", "a load of kind 'open_loop' has no think_time_s"),
        (STAGED, "-u 5", "--users 5: a load of kind 'staged' has no users"),
        (
            STAGED,
            "-r 2",
            "does not take it from Locust: give --set load.spawn_rate_per_s=2",
        ),
        (STAGED, "-t 60", "--run-time 60: a load of kind 'staged' has no duration_s"),
        (SPIKE, "--requests 7", "a load of kind 'spike' has no requests"),
        (SPIKE, "--rate 7", "such as: llmload run demo-open-loop --rate 7"),
        (REPLAY, "--arrivals constant", "a load of kind 'replay' has no arrivals"),
        (CLOSED, "--junit x.xml", "--junit x.xml: means nothing with the web UI: run headless, or leave it out"),
        (CLOSED, "--linger 4", "--linger 4: means nothing with the web UI"),
    ],
)
def test_an_option_that_means_nothing_is_refused_with_the_remedy(
    scenario: Any, load: str, given: str, says: str
) -> None:
    as_written = scenario(load)
    parser = parser_for(as_written)

    with pytest.raises(ConfigError) as error:
        refuse_meaningless(parser, parser.parse_args(given.split()), as_written)
    assert says in str(error.value)


def test_users_of_the_locustfile_s_own_may_be_started_beside_an_open_loop(scenario: Any) -> None:
    as_written = scenario(OPEN)
    parser = parser_for(as_written)

    refuse_meaningless(parser, parser.parse_args(["-u", "5", "-r", "2"]), as_written, other_users=True)
    with pytest.raises(ConfigError, match="has no think_time_s"):
        refuse_meaningless(parser, parser.parse_args(["--think-time", "2"]), as_written, other_users=True)


@pytest.mark.parametrize(
    ("load", "given"),
    [
        (CLOSED, "-u 5 -r 2 -t 60 --requests 9 --think-time 1 --headless --junit x.xml --linger 2"),
        (OPEN, "--rate 5 --arrivals constant --cv 1 --max-in-flight 7 -t 60 --base-url http://127.0.0.1:1"),
        (STAGED, "--think-time 1 --warmup 1 --max-tokens 5"),
        (SPIKE, "--base-rate 1 --burst-rate 5 --burst 1 --period 4 -t 60"),
        (REPLAY, "--speed 2 --requests 5 --summary none"),
        (REPLAY, ""),
    ],
)
def test_an_option_that_means_something_is_taken(scenario: Any, load: str, given: str) -> None:
    as_written = scenario(load)
    parser = parser_for(as_written)

    refuse_meaningless(parser, parser.parse_args(given.split()), as_written)
