"""What is shown of a sweep: rows with their verdicts, fronts as steps by shape and definition, CSV."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llmload.errors import RunFolderError
from llmload.metrics.validity import Level, Reason, Verdict
from llmload.report.conclusion import conclusion
from llmload.report.html.chart import ShownRun
from llmload.report.html.front_charts import front_sections
from llmload.report.html.page import render
from llmload.report.markdown import as_markdown
from llmload.report.sweep import joint_table, shown_columns, sweep_notes, sweep_rows, write_points
from llmload.report.terminal import PointTable, console, run_report
from llmload.runs.folder import RunFolder
from llmload.runs.loaded_run import load_run
from llmload.runs.summary import Summary
from llmload.runs.sweep import SweepFront, SweepPoint, SweepResult, UserSpeed
from tests.recorded import records, write_folder
from tests.run_files import summary_of

LATE = Reason(check="event_loop_lag_p99_s", level=Level.DEGRADED, text="llmload was late")


def point(users: int, speed: float, tokens_per_s: float, **changes: Any) -> SweepPoint:
    unknown = dict.fromkeys(SweepPoint.model_fields)
    known = {
        "name": f"{users} users",
        "stages": ("step-1",),
        "users": users,
        "completed": 10,
        "wanted": 10,
        "output_tokens_per_s": tokens_per_s,
        "output_tokens_per_s_interval": (tokens_per_s - 5, tokens_per_s + 5),
        "tokens_per_s_per_user": UserSpeed(
            median=speed, mean=None, mean_interval=None, p90=None, share=None, share_interval=None
        ),
        "client_bound": False,
        "missed_gates": (),
        "verdict": Verdict.of(),
    }
    return SweepPoint.model_validate({**unknown, **known, **changes})


def sweep(**changes: Any) -> SweepResult:
    known = {
        "points": (
            point(2, 50, 100),
            point(4, 40, 160, client_bound=True, verdict=Verdict.of([LATE])),
            point(8, 30, 150, missed_gates=("ttft_s p95 2, required < 1",)),
        ),
        "front": SweepFront(median=("4 users", "2 users"), p90=(), mean=(), share=()),
        "gpus": 2,
        "gpus_counted_from": "engine",
        "gpus_said": {"engine": 2},
        "between": "salt",
        "rounds": 1,
        "interval_from": "window",
        "ended": None,
        "complete": True,
    }
    return SweepResult.model_validate({**known, **changes})


def summary(result: SweepResult) -> Summary:
    return summary_of().model_copy(update={"sweep": result})


def test_sweeps_have_one_front_together_per_gpu_where_all_know_their_number() -> None:
    front = SweepFront(median=("4 users", "2 users"), p90=(), mean=(), share=())
    more = sweep(points=(point(2, 45, 60), point(4, 35, 90)), front=front, gpus=1)
    engines = [summary(sweep()), summary(more).model_copy(update={"engine": "other"})]

    header, rows = joint_table(engines)

    assert header[3] == "output tok/s/GPU"
    own = engines[0].engine
    assert [(row[0].strip(), *row[1:5]) for row in rows] == [
        ("●", own, "2 users", "50.0", "50.0"),
        ("●", own, "4 users", "80.0", "40.0"),
        ("", own, "8 users", "75.0", "30.0"),
        ("●", "other", "2 users", "60.0", "45.0"),
        ("●", "other", "4 users", "90.0", "35.0"),
    ]
    assert joint_table([engines[0], summary(sweep(gpus=None))])[0][3] == "output tok/s"


def test_rows_have_the_mark_of_the_front_and_notes_what_speaks_against_a_point() -> None:
    shown = summary(sweep())
    assert [(name, cells[0]) for name, cells in sweep_rows(shown, shown_columns(shown))] == [
        ("● 2 users", "VALID"),
        ("● 4 users", "DEGRADED"),
        ("  8 users", "VALID"),
    ]
    assert sweep_notes(sweep())[:2] == [
        "4 users: DEGRADED: llmload was late; may be limited by the load generator",
        "8 users: misses ttft_s p95 2, required < 1",
    ]


def test_points_whose_prompts_are_not_as_long_are_said_to_be() -> None:
    uneven = sweep(points=[point(users, 50, 100, prompt_tokens_mean=30.0 * users) for users in (1, 2)])
    (note,) = [each for each in sweep_notes(uneven) if "as long" in each]

    assert "prompts are not as long at each point: 30 to 60 tokens in the mean; same lengths: --set" in note
    same = [each.model_copy(update={"input_tokens": 60, "output_tokens": 8}) for each in uneven.points]
    assert not any("as long" in each for each in sweep_notes(sweep(points=same)))


@pytest.mark.parametrize(("width", "is_narrow"), [(60, True), (400, False)])
def test_no_figure_is_cut_on_a_narrow_terminal_but_columns_are_left_out(width: int, is_narrow: bool) -> None:
    speeds = UserSpeed(median=50, mean=50, mean_interval=None, p90=40, share=30, share_interval=None)
    known = dict.fromkeys(("requests_per_min", "ttft_p50_s", "tpot_p50_s", "e2e_p50_s"), 1.0)
    full = point(2, 50, 1234.5, tokens_per_s_per_user=speeds, **known)
    terminal = Console(width=width)
    with terminal.capture() as captured:
        terminal.print(PointTable(summary(sweep(points=(full,)))))
    text = " ".join(captured.get().split())

    assert "…" not in text
    assert "● 2 users VALID" in text
    assert "1,234.5" in text
    assert ("for want of room" in text) is is_narrow


def test_a_number_of_gpus_that_is_not_known_is_said_with_its_remedy() -> None:
    assert "per GPU: 2 GPUs by the engine's parallel sizes" in sweep_notes(sweep())
    wrong = sweep(gpus=1, gpus_counted_from="scenario", gpus_said={"scenario": 1, "engine": 2})
    assert "per GPU: 1 GPU by deployment.gpus; BUT 2 by the engine's parallel sizes" in sweep_notes(wrong)
    assert any("n/a" in note and "--set deployment.gpus=N" in note for note in sweep_notes(sweep(gpus=None)))


def test_terminal_and_markdown_have_every_point() -> None:
    terminal = console()
    with terminal.capture() as captured:
        terminal.print(run_report(summary(sweep())))
    for text in (captured.get(), as_markdown([summary(sweep())])):
        assert all(each.name in text for each in sweep().points)
        assert "not to be compared with each other" in text


def test_what_limited_a_point_is_in_its_row_where_any_is_known(tmp_path: Path) -> None:
    full, nothing = ({"limit": each, "text": "t", "remedy": "r"} for each in ("kv_cache", "nothing"))
    stages = [{"name": "a", "limited_by": full}, {"name": "b", "limited_by": nothing}, {"name": "c"}]
    points = (point(2, 50, 100, stages=("a", "b")), point(4, 40, 160, stages=("a", "a")), point(8, 9, 9, stages=("c",)))
    limited = summary_of(stages=stages).model_copy(update={"sweep": sweep(points=points)})

    assert shown_columns(limited)[-1].header == "\nlimited by"
    assert [cells[-1] for _, cells in sweep_rows(limited, shown_columns(limited))] == [
        "KV cache, nothing",
        "KV cache",
        "n/a",
    ]
    assert "| limited by |" in as_markdown([limited])
    write_points(tmp_path / "points.csv", [limited])
    rows = csv.DictReader((tmp_path / "points.csv").read_text().splitlines())
    assert [row["limited_by"] for row in rows] == ["KV cache, nothing", "KV cache", ""]
    assert "limited by" not in {column.header.strip() for column in shown_columns(summary(sweep()))}


def test_the_conclusion_is_of_the_point_that_brings_the_most_and_misses_no_gate() -> None:
    assert conclusion(summary(sweep())).endswith(": at most 160 output tokens/s at 4 users (40.0 a user); VALID")
    assert "at most" not in conclusion(summary(sweep(points=())))


def test_csv_has_a_row_a_point(tmp_path: Path) -> None:
    write_points(tmp_path / "points.csv", [summary_of(), summary(sweep())])
    rows = list(csv.DictReader((tmp_path / "points.csv").read_text().splitlines()))

    assert [(row["users"], row["on_front_median"], row["gpus"]) for row in rows] == [
        ("2", "True", "2"),
        ("4", "True", "2"),
        ("8", "False", "2"),
    ]
    assert rows[0]["output_tokens_per_s_interval_low"] == "95.0"
    with pytest.raises(RunFolderError, match="no run is a sweep"):
        write_points(tmp_path / "none.csv", [summary_of()])


def test_the_page_draws_the_front_as_a_step_beaten_points_grey_and_client_bound_ones_as_rings(tmp_path: Path) -> None:
    run = load_run(RunFolder(write_folder(tmp_path / "run", records(50))))
    swept = ShownRun("a", "run1", _with(run, sweep()))
    (section,) = front_sections([swept])
    beaten, front, rings = section.charts[0].series

    assert section.charts[0].unit == "tok/s/GPU"
    assert (front.style, list(front.x), list(front.y), list(front.labels)) == ("front", [40, 50], [80, 50], ["4", "2"])
    assert (list(front.low), list(front.high)) == ([77.5, 47.5], [82.5, 52.5])
    assert (beaten.colour, list(beaten.x)) == ("quiet", [30])
    assert (rings.hollow, list(rings.x)) == (True, [40])
    assert "Points, each measured on its own" in render([_with(run, sweep())])

    unknown = ShownRun("b", "run2", _with(run, sweep(gpus=None)))
    (both,) = front_sections([swept, unknown])
    assert both.charts[0].unit == "tok/s", "not per GPU where a run's GPUs are not known"
    assert [each.name for each in both.charts[0].series if each.style == "front"] == ["a", "b"]
    assert front_sections([ShownRun("c", "run3", run)]) == []


def _with(run: Any, result: SweepResult) -> Any:
    return replace(run, summary=run.summary.model_copy(update={"sweep": result}))
