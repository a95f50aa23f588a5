"""A load that is over before its window opens is refused, with the options that mend it."""

import re
from pathlib import Path
from typing import Any

import pytest

from llmload.errors import ConfigError
from llmload.scenario import load_scenario
from llmload.scenario.load_protocol import Ramp
from llmload.scenario.reading import find_scenario, read_setting, shipped_scenarios
from llmload.scenario.staged import Staged
from tests.scenario.test_scenario import CLOSED, GOOD, write

STAGES = "[{users = 2, duration_s = 5}, {users = 8, duration_s = 5}]"
SPIKE = "kind = 'spike'\nbase_rate_per_s = 2\nburst_rate_per_s = 9\nburst_s = 2\nperiod_s = 9"
SEARCH = "kind = 'capacity'\nobjectives = ['ttft_s p95 < 1']\nwarmup_s = 2\nstep_min_s = 10"
REFUSED = {
    "kind = 'closed_loop'\nusers = 4\nspawn_rate_per_s = 0.1\nduration_s = 6\nwarmup_s = 1": (
        "the ramp of 30 s (users = 4, spawn_rate_per_s = 0.1) and warmup_s = 1 leave nothing of duration_s = 6 to "
        "measure: give --run-time 62s or --set load.spawn_rate_per_s=4"
    ),
    "kind = 'closed_loop'\nusers = 4\nspawn_rate_per_s = 0.5\nduration_s = 6": (
        "the ramp of 6 s (users = 4, spawn_rate_per_s = 0.5) leaves nothing of duration_s = 6 to measure: "
        "give --run-time 16s or --set load.spawn_rate_per_s=4"
    ),
    "kind = 'closed_loop'\nusers = 4\nspawn_rate_per_s = 1\nduration_s = 6\nwarmup_s = 4": (
        "the ramp of 3 s (users = 4, spawn_rate_per_s = 1) and warmup_s = 4 leave nothing of duration_s = 6 to "
        "measure: give --run-time 17s or --set load.warmup_s=0.8"
    ),
    "kind = 'closed_loop'\nusers = 4\nspawn_rate_per_s = 0.1\nduration_s = 6\nwarmup_s = 7": (
        "give --run-time 74s or --set load.spawn_rate_per_s=4 --set load.warmup_s=2"
    ),
    "kind = 'closed_loop'\nusers = 4\nrequests = 9\nduration_s = 6\nwarmup_s = 6": (
        "warmup_s = 6 leaves nothing of duration_s = 6 to measure: give --run-time 16s or --set load.warmup_s=2"
    ),
    "kind = 'open_loop'\nrate_per_s = 20\nrequests = 20\nwarmup_s = 5": (
        "warmup_s = 5 leaves nothing of the 1 s in which requests = 20 are sent at rate_per_s = 20 to measure: "
        "give --requests 200 or --set load.warmup_s=0.2"
    ),
    "kind = 'open_loop'\nrate_per_s = 1\nduration_s = 6\nwarmup_s = 8": "--run-time 18s or --set load.warmup_s=2",
    "kind = 'open_loop'\nrate_per_s = 0.1\narrivals = 'constant'\nduration_s = 6\nwarmup_s = 1": (
        "rate_per_s = 0.1 sends nothing between warmup_s = 1 and duration_s = 6: give --run-time 20s"
    ),
    f"{SPIKE}\nduration_s = 10\nwarmup_s = 2": (
        "duration_s = 10 leaves no whole period of 9 s after warmup_s = 2: give --run-time 13s"
    ),
    f"kind = 'staged'\nwarmup_s = 5\nstages = {STAGES}": (
        "warmup_s = 5 leaves nothing of stage 1's 5 s to measure: give --set load.warmup_s=1"
    ),
    f"kind = 'staged'\nspawn_rate_per_s = 1\nstages = {STAGES}": (
        "the ramp of 5 s (users = 6, spawn_rate_per_s = 1) leaves nothing of stage 2's 5 s to measure: "
        "give --set load.spawn_rate_per_s=8"
    ),
    "kind = 'staged'\nwarmup_s = 2\nstages = [{rate_per_s = 1, duration_s = 2}]": "give --set load.warmup_s=0.5",
    f"{SEARCH}\nduration_s = 12": (
        "duration_s = 12 leaves no whole step: warmup_s = 2 and step_min_s = 10 come first: give --run-time 24s"
    ),
}
RUNS = (
    "kind = 'closed_loop'\nusers = 4\nspawn_rate_per_s = 1\nduration_s = 6\nwarmup_s = 2.5",
    "kind = 'closed_loop'\nusers = 4\nspawn_rate_per_s = 0.1\nrequests = 9\nwarmup_s = 2.5",
    "kind = 'open_loop'\nrate_per_s = 20\nrequests = 120\nwarmup_s = 5",
    "kind = 'open_loop'\nrate_per_s = 0.1\narrivals = 'constant'\nduration_s = 11\nwarmup_s = 1",
    f"{SPIKE}\nduration_s = 11\nwarmup_s = 2",
    f"kind = 'staged'\nspawn_rate_per_s = 2\nwarmup_s = 2\nstages = {STAGES}",
    f"{SEARCH}\nduration_s = 13",
)


def scenario_of(folder: Path, load: str, overrides: dict[str, Any] | None = None) -> Any:
    return load_scenario(write(folder, GOOD.replace(CLOSED, f"{load}\n[prompts]\nrepeat = true")), overrides)


@pytest.mark.parametrize(
    ("users", "spawn_rate_per_s", "length_s"),
    [(4, 0.1, 30), (4, 1, 3), (1, 0.1, 0), (16, 16, 0), (17, 16, 1), (400, 16, 24), (10, 2.5, 3.2), (0, 1, 0)],
)
def test_a_ramp_takes_as_long_as_locust_takes(users: int, spawn_rate_per_s: float, length_s: float) -> None:
    assert Ramp(users=users, spawn_rate_per_s=spawn_rate_per_s).length_s == pytest.approx(length_s)


@pytest.mark.parametrize("load", REFUSED)
def test_a_load_without_a_window_is_refused_and_every_remedy_mends_it(tmp_path: Path, load: str) -> None:
    with pytest.raises(ConfigError) as caught:
        scenario_of(tmp_path, load)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'x.toml'}: load: ")
    assert text.endswith(REFUSED[load])
    assert "\n" not in text

    for remedy in text.partition(": give ")[2].split(" or "):
        mended = dict(read_setting(setting) for setting in re.findall(r"--set (\S+)", remedy))
        for key, option in (("load.duration_s", r"--run-time (\d+)s"), ("load.requests", r"--requests (\d+)")):
            if found := re.search(option, remedy):
                mended[key] = int(found[1])
        scenario_of(tmp_path, load, mended)


@pytest.mark.parametrize("load", RUNS)
def test_a_load_whose_window_opens_is_not_refused(tmp_path: Path, load: str) -> None:
    scenario_of(tmp_path, load)


@pytest.mark.parametrize("name", shipped_scenarios())
def test_a_shipped_scenario_has_a_window(name: str) -> None:
    load_scenario(find_scenario(name)).load.check_window()


def test_what_is_to_be_changed_is_not_refused_yet(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD.replace(CLOSED, next(iter(REFUSED))))

    assert load_scenario(file, is_whole=False).load.ends_after_s == 6
    assert load_scenario(file, {"load.duration_s": 62}).load.ends_after_s == 62


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("warmup_s = 5", "no arrival between warmup_s = 5 and its end (the last one before is at 4 s): give "),
        ("warmup_s = 3\nspeed = 2", "(the last one before is at 2 s): give --set load.warmup_s=0.5"),
        ("warmup_s = 2\nrequests = 2", "(the last one before is at 1 s): give --set load.warmup_s=0.2"),
        ("warmup_s = 2\nduration_s = 3", "between warmup_s = 2 and duration_s = 3 (the last one before is at 1 s)"),
    ],
)
def test_a_replay_without_an_arrival_in_its_window_is_refused(tmp_path: Path, keys: str, says: str) -> None:
    (tmp_path / "t.csv").write_text("timestamp\n10\n11\n14\n")
    load = scenario_of(tmp_path, f"kind = 'replay'\ntrace = 't.csv'\n{keys}").load

    with pytest.raises(ValueError, match=re.escape(says)):
        load.check_files(tmp_path)
    scenario_of(tmp_path, "kind = 'replay'\ntrace = 't.csv'\nwarmup_s = 3").load.check_files(tmp_path)


def test_the_users_that_start_follow_the_users_unless_their_rate_is_set(tmp_path: Path) -> None:
    load = scenario_of(tmp_path, "kind = 'closed_loop'\nusers = 16\nduration_s = 6").load
    slow = scenario_of(tmp_path, "kind = 'closed_loop'\nusers = 16\nspawn_rate_per_s = 8\nduration_s = 6").load

    assert (load.spawn_rate_for(400), load.ramp.length_s) == (400, 0)
    assert (slow.spawn_rate_for(400), slow.ramp.length_s) == (8, 1)


def test_a_stage_starts_and_stops_the_users_that_differ(tmp_path: Path) -> None:
    stages = "[{users = 2, duration_s = 9}, {users = 8, duration_s = 9}, {users = 3, duration_s = 9}]"
    load = scenario_of(tmp_path, f"kind = 'staged'\nspawn_rate_per_s = 1\nstages = {stages}").load

    assert isinstance(load, Staged)
    assert [load.ramp_of(index).users for index in range(3)] == [2, 6, 5]
    assert [load.ramp_of(index).length_s for index in range(3)] == [1, 5, 4]
