"""The comparison of clients is right: costs by difference, truth by the engine's log, memory by samples."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click import ClickException
from click.testing import CliRunner
from rich.console import Console
from rich.table import Table

from benchmarks.comparisons.client_cost.__main__ import main
from benchmarks.comparisons.client_cost.comparison import Comparison, Figures, Reading, reading
from benchmarks.comparisons.client_cost.evalscope import Evalscope
from benchmarks.comparisons.client_cost.other_tools import Aiperf, GenaiBench, Guidellm
from benchmarks.comparisons.client_cost.requirements import cost_and_truth
from benchmarks.comparisons.client_cost.sglang_bench import SglangBench
from benchmarks.comparisons.client_cost.short_answers import short_table
from benchmarks.comparisons.client_cost.special import STALLING
from benchmarks.comparisons.client_cost.stamps import Stamps
from benchmarks.comparisons.client_cost.starved import busy_processes, judge_starved, starved_table
from benchmarks.tools.bench_run import Bench, ClientRun, Cores, run_client
from benchmarks.tools.c_loop.client import CLoop
from benchmarks.tools.cpu_time import TICKS_PER_S, MachineTime
from benchmarks.tools.llmload_client import Llmload
from benchmarks.tools.load_client import Reported, Task
from benchmarks.tools.peers import PEERS, Peer, write_tokenizer
from benchmarks.tools.pinned import Usage
from benchmarks.tools.truth_engine.engine import TruthEngine
from benchmarks.tools.truth_engine.log import TrueAnswer, TruthLog
from benchmarks.tools.work import Work

MS = 1_000_000
WORK = Work(streams=4, tokens_per_s=100, tokens=16)


def answer(request_id: str = "r", *, received_ms: float = 0, writes_ms: tuple[float, ...] = (50, 60, 70)) -> TrueAnswer:
    """Build an answer as the engine logs it."""
    return TrueAnswer(
        request_id=request_id,
        complete=True,
        kernel_stamped=True,
        received_ns=int(received_ms * MS),
        first_due_ns=int(writes_ms[0] * MS),
        done_ns=int(writes_ms[-1] * MS),
        worst_late_ns=0,
        writes_ns=np.array([int(moment * MS) for moment in writes_ms], dtype=np.int64),
    )


def run(folder: Path, *, cpu_s: float, answers: list[TrueAnswer], **reported: Any) -> ClientRun:
    """Build a run that used so much and was answered so."""
    return ClientRun(
        client="llmload",
        work=WORK,
        requests=len(answers),
        usage=Usage(exit_code=0, cpu_s=cpu_s, kernel_s=cpu_s / 2, wall_s=1.0, memory=(), output=folder / "output.txt"),
        machine_cpu_s=2 * cpu_s,
        engine_cpu_s=cpu_s / 4,
        reported=Reported(completed=len(answers), **reported),
        truth=TruthLog(answers),
        connections=1,
        max_streams=1,
        folder=folder,
    )


def plain_text(table: Table) -> str:
    """Return a table as it is printed, wide enough for every column."""
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def one_reading(client: str, cost: float, **figures: Any) -> Reading:
    """Build a reading whose figures are true unless given."""
    true = {"ttft_mean_s": 0.05, "ttft_p99_s": 0.055, "itl_p50_s": 0.01, "itl_p99_s": 0.012, "itl_max_s": 0.03}
    values: dict[str, Any] = {
        "client": client,
        "cpu_us_per_token": cost,
        "kernel_us_per_token": cost / 2,
        "engine_us_per_token": cost / 2,
        "machine_us_per_token": cost * 2,
        "startup_cpu_s": 1.0,
        "carried_tokens_per_s": WORK.offered_tokens_per_s,
        **true,
        **{f"true_{name}": value for name, value in true.items()},
        "coalesced_share": 0.0,
        "engine_late_p99_s": 0.0,
        "peak_rss_mb": 100.0,
        "failed": 0,
        "ttft_wire_mean_s": 0.05,
        "stamps": "packet",
        "verdict": "VALID",
        "reasons": (),
        "doubted": (),
    }
    return Reading(**values | figures)


class TestWork:
    def test_is_written_as_streams_rate_tokens(self) -> None:
        work = Work.parse("200x100x128")

        assert (work.streams, work.tokens_per_s, work.tokens) == (200, 100, 128)
        assert work.label == "200x100x128"
        assert work.offered_tokens_per_s == pytest.approx(200 * 128 / (0.05 + 1.27))  # 19.4k tokens/s

    @pytest.mark.parametrize("text", ["", "200", "0x100x128", "200x0x128", "200x100x", "axbxc"])
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="STREAMSxTOKENS_PER_SxTOKENS"):
            Work.parse(text)


def test_the_steady_rate_leaves_out_ramp_and_tail() -> None:
    ramp = [answer(received_ms=0, writes_ms=(10, 100, 110)), answer(received_ms=90, writes_ms=(95, 105, 115))]
    last = answer(received_ms=190, writes_ms=(195, 205, 215))

    rate = TruthLog([*ramp, last]).steady_chunks_per_s()

    assert rate == pytest.approx(5 / 0.1)  # 95, 100, 105, 110, 115 between 90 and 190 ms


class TestCost:
    def test_start_up_does_not_count_as_the_cost_of_tokens(self, tmp_path: Path) -> None:
        answers = [answer(received_ms=number) for number in range(30)]
        short = run(tmp_path, cpu_s=2.0 + 10 * 3 * 20e-6, answers=answers[:10])
        long = run(tmp_path, cpu_s=2.0 + 30 * 3 * 20e-6, answers=answers)

        came_to = reading(short, long)

        assert came_to.cpu_us_per_token == pytest.approx(20.0)
        assert came_to.kernel_us_per_token == pytest.approx(10.0)
        assert came_to.startup_cpu_s == pytest.approx(2.0)
        assert came_to.engine_us_per_token == pytest.approx(5.0)
        assert came_to.machine_us_per_token == pytest.approx(40.0)

    def test_latencies_are_compared_with_those_of_the_requests_that_the_client_counts(self, tmp_path: Path) -> None:
        warming = [answer(f"w{number}", writes_ms=(900, 960, 970)) for number in range(5)]
        counted = [answer(f"c{number}", received_ms=1000, writes_ms=(1050, 1060, 1070)) for number in range(5)]

        figures = Figures.of(
            run(tmp_path, cpu_s=1, answers=[*warming, *counted], counted=frozenset(f"c{n}" for n in range(5)))
        )

        assert (figures.true_ttft_mean_s, figures.true_itl_max_s) == (0.05, 0.01)

    def test_an_answer_of_one_token_has_no_gaps(self, tmp_path: Path) -> None:
        answers = [answer(received_ms=number, writes_ms=(number + 50,)) for number in range(30)]

        figures = Figures.of(run(tmp_path, cpu_s=1, answers=answers))

        assert (figures.true_itl_p50_s, figures.true_itl_p99_s, figures.true_itl_max_s) == (None, None, None)
        assert figures.true_ttft_mean_s == pytest.approx(0.05)

    def test_the_ratio_is_taken_within_each_repetition(self) -> None:
        comparison = Comparison(WORK)
        for own, baseline in ((10, 20), (30, 40), (9, 10)):  # a noisy machine slows both
            comparison.add(one_reading("llmload", own))
            comparison.add(one_reading("sglang-bench", baseline))

        assert comparison.ratio("llmload", "sglang-bench") == 0.75
        assert comparison.median("llmload", "cpu_us_per_token") == 10

    def test_without_the_bar_there_is_no_ratio(self) -> None:
        comparison = Comparison(WORK)
        comparison.add(one_reading("llmload", 10))

        assert comparison.ratio("llmload", "sglang-bench") is None
        assert {judgement.passed for judgement in cost_and_truth(comparison)} == {True}

    @pytest.mark.parametrize(
        ("client", "off"),
        [
            ("llmload", {"ttft_mean_s": 0.0503}),
            ("llmload", {"itl_p50_s": 0.01003}),
            ("llmload", {"itl_p99_s": 0.01203}),
            ("llmload", {"itl_max_s": 0.0302}),
            ("llmload", {"itl_max_s": None}),
            ("llmload", {"coalesced_share": 1e-6}),
            ("llmload", {"carried_tokens_per_s": 0.994 * WORK.offered_tokens_per_s}),
            ("llmload", {"failed": 1}),
            ("llmload", {"stamps": "kernel"}),
            ("llmload-socket", {"stamps": "user"}),
            ("llmload-socket", {"stamps": "kernel", "ttft_mean_s": 0.0504}),
            ("llmload-socket", {"stamps": "kernel", "itl_p99_s": 0.0122}),
            ("llmload-socket", {"stamps": "kernel", "coalesced_share": 0.006}),
        ],
    )
    def test_a_figure_that_is_off_fails_its_requirement_alone(self, client: str, off: dict[str, Any]) -> None:
        comparison = Comparison(WORK)
        comparison.add(one_reading(client, 10, **off))

        assert sum(not judgement.passed for judgement in cost_and_truth(comparison)) == 1

    def test_with_stamped_reads_the_limits_are_wider(self) -> None:
        comparison = Comparison(WORK)
        figures = {"stamps": "kernel", "coalesced_share": 0.004, "itl_p99_s": 0.0121, "itl_max_s": 1.0}
        comparison.add(one_reading("llmload-socket", 10, **figures))

        assert all(judgement.passed for judgement in cost_and_truth(comparison))

    @pytest.mark.parametrize(
        ("costs", "failed"),
        [
            ({}, []),
            ({"sglang-bench": 18.0}, ["CPU a token, x sglang-bench"]),
            ({"c-loop-read": 9.9}, ["CPU a token, x c-loop-read"]),
            ({"c-loop-read": 10.0}, ["CPU a token, x c-loop-read"]),
            ({"llmload-socket": 9.0}, ["the machine's CPU a token, x llmload-socket"]),
            ({"llmload-socket": 17.0}, ["CPU a token, x sglang-bench"]),
        ],
    )
    def test_costs_are_judged_beside_the_clients_of_the_same_series(
        self, costs: dict[str, float], failed: list[str]
    ) -> None:
        comparison = Comparison(WORK)
        usual = {"llmload": 10.0, "llmload-socket": 14.0, "c-loop-read": 11.0, "sglang-bench": 20.0}
        for client, cost in (usual | costs).items():
            comparison.add(one_reading(client, cost, stamps="kernel" if client == "llmload-socket" else "packet"))

        assert [each.name for each in cost_and_truth(comparison) if not each.passed] == failed
        assert not [each for each in cost_and_truth(comparison, cost=False) if not each.passed]

    def test_a_figure_that_a_tool_does_not_give_has_no_error(self) -> None:
        comparison = Comparison(WORK)
        comparison.add(one_reading("genai-bench", 80, itl_p99_s=None))

        assert comparison.error("genai-bench", "itl_p99_s", relative=True) is None
        assert comparison.error("genai-bench", "ttft_mean_s", relative=False) == 0


class TestStarved:
    def found(self, **figures: Any) -> list[str]:
        """Return which requirements on a starved client's figures are not met."""
        comparison = Comparison(WORK)
        comparison.add(one_reading("llmload", 10, **{"reasons": ("a",), "ttft_mean_s": 9.0} | figures))
        assert "llmload" in plain_text(starved_table(comparison))
        return [each.name for each in judge_starved(comparison) if not each.passed]

    def test_a_late_client_may_see_a_late_first_token_but_not_on_the_wire(self) -> None:
        assert self.found() == []
        assert self.found(ttft_wire_mean_s=0.0503) == ["TTFT on the wire, mean off by, s"]
        assert self.found(ttft_wire_mean_s=None) == ["TTFT on the wire, mean off by, s"]

    def test_gaps_are_held_to_half_a_percent(self) -> None:
        assert self.found(itl_p99_s=0.01205) == []
        assert self.found(itl_p99_s=0.01207) == ["pooled ITL p99 off by"]

    def test_the_verdict_says_that_the_load_was_lighter_and_that_the_latencies_are_true(self) -> None:
        assert self.found(reasons=()) == ["every verdict says that the load was not carried"]
        assert self.found(doubted=("ttft_s", "e2e_s")) == []
        assert self.found(doubted=("itl_s",)) == ["latencies that a verdict doubts"]

    def test_other_clients_are_shown_and_not_judged(self) -> None:
        comparison = Comparison(WORK)
        comparison.add(one_reading("aiperf", 10, itl_max_s=None))

        assert judge_starved(comparison) == []
        assert "- / 30.00" in plain_text(starved_table(comparison))

    def test_busy_processes_have_the_core_and_end_with_their_context(self) -> None:
        cpu = max(os.sched_getaffinity(0))
        with busy_processes(2, cpu) as pids:
            assert {frozenset(os.sched_getaffinity(pid)) for pid in pids} == {frozenset({cpu})}

        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_requests_a_core_are_those_whose_cost_fills_it() -> None:
    comparison = Comparison(replace(WORK, tokens=8))
    comparison.add(one_reading("llmload", 50, carried_tokens_per_s=16_000))  # us a token

    shown = plain_text(short_table(comparison))

    assert "2,500" in shown  # requests/s, of 400 us each
    assert "2,000" in shown  # carried


class TestMachineTime:
    STAT = "cpu  100 20 300 9999 50 7 13 77 5 0\ncpu0 1 1 1 1 1 1 1 1 1 1\nintr 5\n"

    def test_busy_is_neither_idle_nor_waiting_nor_stolen(self) -> None:
        machine = MachineTime.parse(self.STAT)

        assert machine.busy_s == pytest.approx((100 + 20 + 300 + 7 + 13) / TICKS_PER_S)
        assert machine.stolen_s == pytest.approx(77 / TICKS_PER_S)

    def test_what_was_done_in_between_is_the_difference(self) -> None:
        later = MachineTime.parse(self.STAT.replace("100", "150").replace("77", "78"))

        between = later.since(MachineTime.parse(self.STAT))

        assert (between.busy_s, between.stolen_s) == pytest.approx((50 / TICKS_PER_S, 1 / TICKS_PER_S))

    @pytest.mark.parametrize("text", ["", "intr 5\n", "cpu0 1 2 3 4 5 6 7 8\n", "cpu 1 2 3 4\n"])
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="/proc/stat"):
            MachineTime.parse(text)


class TestStamps:
    def lines(self, folder: Path, *stamps_ms: float) -> None:
        run = folder / "runs" / "one"
        run.mkdir(parents=True)
        gaps_ns = [round(gap * MS) for gap in np.diff([0, *stamps_ms])]
        line = {"request_id": "r", "started_ns": 0, "chunk_gaps_ns": gaps_ns}
        (run / "requests.jsonl").write_text(json.dumps(line) + "\n")

    def test_chunks_read_alone_are_compared_with_their_own_writes(self, tmp_path: Path) -> None:
        self.lines(tmp_path, 50.1, 60.2, 70.1)

        stamps = Stamps.of(run(tmp_path, cpu_s=0, answers=[answer()]))

        assert stamps.arrival_error_s == pytest.approx([0.0001, 0.0002, 0.0001])
        assert stamps.itl_error_s == pytest.approx([0.0001, -0.0001])
        assert stamps.ttft_error_s == pytest.approx([0.0001])
        assert stamps.coalesced_share == 0

    def test_chunks_that_share_a_stamp_are_counted_and_left_out(self, tmp_path: Path) -> None:
        self.lines(tmp_path, 60.1, 60.1, 70.1)

        stamps = Stamps.of(run(tmp_path, cpu_s=0, answers=[answer()]))

        assert stamps.coalesced_share == pytest.approx(2 / 3)
        assert stamps.arrival_error_s == pytest.approx([0.0001])
        assert len(stamps.itl_error_s) == len(stamps.ttft_error_s) == 0

    def test_a_chunk_too_many_is_an_error(self, tmp_path: Path) -> None:
        self.lines(tmp_path, 50, 60, 70, 80)

        with pytest.raises(ValueError, match="4 chunks counted, 3 written"):
            Stamps.of(run(tmp_path, cpu_s=0, answers=[answer()]))


BURN = "import time\nwhile time.process_time() < 0.3: pass\n"


RUN_PINNED = """
import pickle, sys
from benchmarks.tools.pinned import run_pinned
try:
    result = run_pinned(**pickle.loads(sys.stdin.buffer.read()))
except Exception as error:
    result = error
sys.stdout.buffer.write(pickle.dumps(result))
"""


class TestPinned:
    def run(self, folder: Path, program: str, timeout_s: float = 30) -> Usage:
        """Run it from a process that gevent has not patched: else gevent reaps the program, and its usage is lost."""
        keywords = {
            "command": [sys.executable, "-c", program],
            "cpu": max(os.sched_getaffinity(0)),
            "folder": folder,
            "environment": {"GREETING": "hi"},
            "timeout_s": timeout_s,
        }
        command = [sys.executable, "-c", RUN_PINNED]
        done = subprocess.run(command, input=pickle.dumps(keywords), stdout=subprocess.PIPE, timeout=60, check=True)
        result = pickle.loads(done.stdout)  # noqa: S301 - our own process wrote it
        if isinstance(result, Exception):
            raise result
        assert isinstance(result, Usage)
        return result

    def test_a_program_has_one_core_its_environment_and_its_output_kept(self, tmp_path: Path) -> None:
        program = "import os, sys; print(len(os.sched_getaffinity(0)), os.environ['GREETING']); sys.exit(3)"

        usage = self.run(tmp_path, program)

        assert usage.exit_code == 3
        assert usage.output.read_text() == "1 hi\n"

    def test_what_its_children_use_counts(self, tmp_path: Path) -> None:
        usage = self.run(tmp_path, f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}])")

        assert usage.cpu_s > 0.3

    def test_memory_is_sampled_while_it_runs(self, tmp_path: Path) -> None:
        usage = self.run(tmp_path, "import time; held = b'x' * 50_000_000; time.sleep(0.5)")

        assert 50e6 < usage.peak_rss_bytes < 100e6

    def test_a_program_that_takes_too_long_is_ended(self, tmp_path: Path) -> None:
        with pytest.raises(ClickException, match="did not end within 3 s\nstuck"):
            self.run(tmp_path, "import time; print('stuck', flush=True); time.sleep(60)", timeout_s=3.0)


class TestClients:
    def test_the_locustfile_of_the_stalled_reader_exists(self) -> None:
        assert STALLING.is_file()

    def task(self, folder: Path) -> Task:
        return Task(work=WORK, requests=12, base_url="http://127.0.0.1:1", ca_file=None, model="truth", folder=folder)

    def test_sglang_bench_is_read_in_seconds(self, tmp_path: Path) -> None:
        ttft = {"mean_ttft_ms": 51.0, "median_ttft_ms": 50.0, "p99_ttft_ms": 60.0}
        gaps = {"median_tpot_ms": 9.0, "p99_tpot_ms": 11.0, "median_itl_ms": 10.0, "p99_itl_ms": 12.0}
        result = {"completed": 11, "output_throughput": 7.0, **ttft, **gaps}
        (tmp_path / "result.jsonl").write_text(json.dumps(result))

        assert SglangBench().reported(self.task(tmp_path)) == Reported(
            completed=11,
            failed=1,
            output_tokens_per_s=7.0,
            ttft_mean_s=0.051,
            ttft_p50_s=0.05,
            ttft_p99_s=0.06,
            tpot_p50_s=0.009,
            tpot_p99_s=0.011,
            itl_p50_s=0.01,
            itl_p99_s=0.012,
        )

    def test_aiperf_gives_chunk_gaps(self, tmp_path: Path) -> None:
        export = {
            "request_count": {"avg": 12.0},
            "output_token_throughput": {"avg": 7.0},
            "time_to_first_token": {"avg": 51.0, "p50": 50.0, "p99": 60.0},
            "inter_chunk_latency": {"p50": 10.0, "p99": 12.0},
            "inter_token_latency": {"p50": 9.0, "p99": 11.0},
        }
        (tmp_path / "artifacts").mkdir()
        (tmp_path / "artifacts" / "profile_export_aiperf.json").write_text(json.dumps(export))

        assert Aiperf().reported(self.task(tmp_path)) == Reported(
            completed=12,
            output_tokens_per_s=7.0,
            ttft_mean_s=0.051,
            ttft_p50_s=0.05,
            ttft_p99_s=0.06,
            tpot_p50_s=0.009,
            tpot_p99_s=0.011,
            itl_p50_s=0.01,
            itl_p99_s=0.012,
        )

    def test_what_a_tool_averages_per_request_is_not_passed_off_as_gaps(self, tmp_path: Path) -> None:
        ttft = {"mean": 51.0, "percentiles": {"p50": 50.0, "p99": 60.0}}
        metrics = {
            "output_tokens_per_second": {"successful": ttft},
            "time_to_first_token_ms": {"successful": ttft},
            "inter_token_latency_ms": {"successful": ttft},
            "request_totals": {"successful": 12, "errored": 0},
        }
        (tmp_path / "report.json").write_text(json.dumps({"benchmarks": [{"metrics": metrics}]}))

        reported = Guidellm().reported(self.task(tmp_path))

        assert (reported.ttft_mean_s, reported.tpot_p50_s, reported.itl_p50_s) == (0.051, 0.05, None)

    def test_a_peer_that_is_absent_says_how_it_is_installed(self) -> None:
        absent = Peer(name="absent", pins=("absent==1",))

        assert absent.missing() == "not installed: python -m benchmarks.tools.peers install absent"
        assert {
            client.name for client in (SglangBench(), Aiperf(), GenaiBench(), Guidellm(), Evalscope())
        } <= PEERS.keys()

    def test_the_tokenizer_for_tools_that_need_one_knows_its_words(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("benchmarks.tools.peers.HOME", tmp_path)

        model = json.loads((write_tokenizer() / "tokenizer.json").read_text())["model"]

        assert sorted(model["vocab"].values()) == list(range(len(model["vocab"])))

    def test_an_unknown_client_or_work_is_refused_before_anything_runs(self) -> None:
        for arguments in (["--only", "nonesuch"], ["--work", "fast"], ["--requests", "6000,2000"]):
            done = CliRunner().invoke(main, arguments)
            assert done.exit_code == 2
            assert arguments[1] in done.output or "smaller first" in done.output


@pytest.mark.skipif(shutil.which("gcc") is None, reason="the truth engine is compiled with gcc")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="client and engine need a core each")
def test_llmload_is_run_as_its_users_run_it_and_matched_chunk_by_chunk(tmp_path: Path) -> None:
    bench = Bench(cores=Cores.of_this_machine(), folder=tmp_path, repeat=1, keep=True, say=print)

    done = run_client(Llmload(), WORK, 48, bench=bench, subfolder="small")
    stamps = Stamps.of(done)

    assert done.reported.completed == len(done.truth.complete) == 48
    assert done.max_streams == 4
    assert done.reported.verdict is not None
    assert stamps.chunks == 48 * 16
    assert done.reported.stamps in {"packet", "kernel"}
    assert abs(float(np.median(stamps.arrival_error_s))) < 0.001  # by the kernel's stamps, however busy this machine


@pytest.mark.skipif(shutil.which("gcc") is None, reason="it is compiled with gcc")
@pytest.mark.parametrize("look_ms", [0, 6])
def test_the_c_loop_is_compiled_and_asks_again_until_all_are_answered(look_ms: int, tmp_path: Path) -> None:
    client, work = CLoop("c-loop", look_ms), replace(WORK, ttft_s=0.005, tokens_per_s=1000)
    with TruthEngine(work.schedule, tmp_path) as engine:
        task = Task(work=work, requests=20, base_url=engine.base_url, ca_file=None, model=engine.model, folder=tmp_path)
        done = subprocess.run(client.command(task).arguments, capture_output=True, timeout=30, check=True)
        (tmp_path / "output.txt").write_bytes(done.stdout)

    assert client.missing() is None
    assert client.reported(task) == Reported(completed=20)
    assert [len(each.writes_ns) for each in engine.log.complete] == [work.tokens] * 20
    assert (engine.connections, engine.max_streams) == (work.streams, work.streams)
    assert 0 <= engine.spun_s < engine.cpu_s


def test_the_c_loop_says_why_it_stops(tmp_path: Path) -> None:
    with pytest.raises(ClickException, match="c-loop speaks no TLS"):
        CLoop("c-loop").command(
            Task(work=WORK, requests=1, base_url="", ca_file=tmp_path, model="truth", folder=tmp_path)
        )
