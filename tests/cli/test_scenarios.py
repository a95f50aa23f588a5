"""`llmload scenarios`: what is listed, shown and written, and what a file of one's own needs to run anywhere."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from llmload.cli.main import main
from llmload.cli.scenarios import FIRST
from llmload.errors import ExitCode
from llmload.scenario import load_scenario
from llmload.scenario.reading import (
    find_scenario,
    locustfile_named_by,
    schema_of,
    shipped_scenarios,
    shipped_suites,
)


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["scenarios", *words])


def names_in(text: str) -> list[str]:
    return [line.split()[0] for line in text.partition("\n\n")[0].splitlines()]


def test_what_most_people_need_is_listed_first_and_the_others_with_all() -> None:
    few, everything = run(), run("--all")

    assert names_in(few.output) == [*FIRST]
    assert names_in(everything.output)[: len(FIRST)] == [*FIRST]
    assert {*shipped_scenarios(), *shipped_suites()} <= {*names_in(everything.output)}
    others = len(names_in(everything.output)) - len(FIRST)
    assert f"{others} more: llmload scenarios --all" in few.output
    assert "more:" not in everything.output


def test_a_scenario_is_shown_as_its_file_has_it() -> None:
    assert run("show", "demo").output == find_scenario("demo").read_text(encoding="utf-8")
    assert "# A cell of reference-suite.toml" in run("show", "reference/vllm-vicuna-7b-v1.3-speed").output


def test_the_path_is_that_of_the_file() -> None:
    assert Path(run("path", "lima-speed").output.strip()) == find_scenario("lima-speed")
    assert Path(run("path", "reference-suite").output.strip()) == shipped_suites()["reference-suite"]
    assert Path(run("schema").output.strip()) == schema_of("scenario")

    cell = run("path", "reference/vllm-vicuna-7b-v1.3-speed")
    assert cell.exit_code == ExitCode.WRONG_USE
    assert "has no file: write one with llmload scenarios new" in cell.output


@pytest.mark.parametrize(
    ("words", "source"),
    [
        (["mine"], "chat"),
        (["mine.toml", "--from", "demo-staged"], "demo-staged"),
        (["capacity"], "capacity"),
        (["mine", "--from", "reference/vllm-vicuna-7b-v1.3-speed"], "reference/vllm-vicuna-7b-v1.3-speed"),
    ],
)
def test_a_new_file_is_a_copy_that_works_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], source: str
) -> None:
    monkeypatch.chdir(tmp_path)

    written = run("new", *words)

    assert written.exit_code == ExitCode.GOOD, written.output
    (file,) = tmp_path.iterdir()
    assert file.name == f"{words[0].removesuffix('.toml')}.toml"
    assert file.read_text(encoding="utf-8").startswith(f"#:schema {schema_of('scenario')}\n")
    assert Path(locustfile_named_by(file) or "").is_absolute()
    assert Path(locustfile_named_by(file) or "").is_file()
    copy = load_scenario(file)
    assert copy.scenario.name == file.stem
    if "/" not in source:
        shipped = load_scenario(find_scenario(source))
        assert copy == shipped.model_copy(update={"scenario": copy.scenario})


def test_a_new_file_overwrites_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text("kept", encoding="utf-8")

    ended = run("new", "mine")

    assert ended.exit_code == ExitCode.WRONG_USE
    assert "mine.toml: is there already: give another name, or remove it" in ended.output
    assert Path("mine.toml").read_text(encoding="utf-8") == "kept"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["show", "lima-sped"], "did you mean lima-speed?"),
        (["path", "demo-stagd"], "did you mean demo-staged?"),
        (["new", "mine", "--from", "capasity"], "did you mean capacity?"),
        (["shwo", "demo"], "Did you mean 'show'?"),
        (["new", "no-such-folder/mine.toml"], "no-such-folder/mine.toml: cannot be written: No such file or directory"),
    ],
)
def test_a_mistake_is_answered_with_the_nearest(words: list[str], says: str) -> None:
    ended = run(*words)

    assert ended.exit_code == ExitCode.WRONG_USE
    assert says in ended.output
