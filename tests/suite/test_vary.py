"""`[suite.vary]`: each list of options makes a variant of an engine, with its own name, label and cells."""

from pathlib import Path

import pytest

from benchmarks import ROOT
from llmload.errors import ConfigError
from llmload.scenario.reading import find_suite
from llmload.suite.file import MAX_NAME, load_suite
from llmload.suite.plan import make_plan

SUITE = """
[suite]
name = "s"
{vary}
[engines.simulated]
options = ["--slots", "4"]
[engines.gateway]
kind = "running"
engine = "other"
url = "http://127.0.0.1:9"
[models.m]
id = "m"
[models.m.options]
simulated = ["--seed", "3"]
[protocols.speed]
scenario = "lima-speed"
set = ['prompts.source="builtin"']
engines = ["simulated"]
"""
VARY = """[suite.vary]
"engines.simulated.options" = [["--itl-s", "0.01"], ["--itl-s", "0.02"]]
"""


def written(folder: Path, vary: str) -> Path:
    file = folder / "suite.toml"
    file.write_text(SUITE.format(vary=vary))
    return file


def test_each_variant_has_its_name_its_label_and_its_command(tmp_path: Path) -> None:
    plan = make_plan(written(tmp_path, VARY))

    assert [each.name for each in plan.deployments] == ["simulated.itl-s-0.01/m", "simulated.itl-s-0.02/m"]
    assert [each.cells[0].scenario.engine.display_name for each in plan.deployments] == [
        "simulated --itl-s 0.01",
        "simulated --itl-s 0.02",
    ]
    assert plan.deployments[1].start_command(1)[-6:] == ["--slots", "4", "--itl-s", "0.02", "--seed", "3"]


@pytest.mark.parametrize("file", [find_suite("demo-suite"), ROOT / "benchmarks/llamacpp-suite.toml"], ids=str)
def test_a_suite_that_shows_it_sweeps_each_variant(file: Path) -> None:
    plan = make_plan(file)

    assert len(plan.deployments) == 3
    assert {cell.scenario.load.kind for cell in plan.cells} == {"sweep"}
    assert len({tuple(each.start_command(1)) for each in plan.deployments}) == 3


def test_without_variants_a_suite_stays_as_it_is(tmp_path: Path) -> None:
    assert list(load_suite(written(tmp_path, "")).engines) == ["simulated", "gateway"]


@pytest.mark.parametrize(
    ("vary", "says"),
    [
        ('"engines.vllm.options" = [["-x"]]', "suite.vary: no 'vllm' in this file; it has simulated, gateway"),
        ('"models.m.options" = [["-x"]]', "'models.m.options' is not engines.NAME.options"),
        ('"engines.gateway.options" = [["-x"]]', "engines.gateway is running already"),
        (
            '"engines.simulated.options" = [["-x", "1"], ["-x 1"]]',
            "engines.simulated would have two variants called simulated.x-1: change their options",
        ),
        (
            '"engines.simulated.options" = [["gateway"]]\n[engines."simulated.gateway"]\nengine = "simulated"',
            "engines.simulated.gateway and engines.simulated would have two variants called simulated.gateway",
        ),
        ('"engines.simulated.options" = []', "list should have at least 1 item"),
        ('"engines.simulated.options" = [["--api-key", "sk-0123456789abcdef0123456789abcdef"]]', "a password or key"),
    ],
)
def test_what_cannot_be_varied_is_refused(tmp_path: Path, vary: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_suite(written(tmp_path, f"[suite.vary]\n{vary}\n"))


def test_options_too_long_for_a_folders_name_are_cut_and_stay_apart(tmp_path: Path) -> None:
    words = [[f"--speculative-config {'1' * 300}{last}"] for last in "23"]
    suite = load_suite(written(tmp_path, f'[suite.vary]\n"engines.simulated.options" = {words}\n'))

    one, other, _ = suite.engines
    assert one != other
    assert len(one) == len(other) <= 2 * MAX_NAME + 10
    assert [suite.engines[each].options[-1] for each in (one, other)] == [each for (each,) in words]
