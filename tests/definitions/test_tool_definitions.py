"""A run of two answers by each tool's definitions, every figure computed by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from llmload.cli.main import main
from llmload.definitions.catalogue import TOOL_DEFINITIONS, definitions_json
from llmload.definitions.sample import Weighted, linear, read_sample
from llmload.metrics.requests import LINE_KEYS
from llmload.record import Outcome, RequestRecord
from llmload.runs.folder import RunFolder
from llmload.runs.requests import RequestLog, read_records
from tests.run_files import manifest_of, scenario_of, summary_of, write_json

MS = 1_000_000
UNIX_S = 1_700_000_000.0


def request(
    start_ms: float,
    text_ms: tuple[float, ...],
    *,
    tokens: int | None,
    done_ms: float,
    textless_ms: tuple[float, ...] | None = (),
    outcome: str = "completed",
    prompt_tokens: int | None = 10,
    connected_ms: float | None = None,
) -> dict[str, Any]:
    """Build a line of requests.jsonl; moments are ms after the request's start."""

    def gaps(moments: tuple[float, ...]) -> list[int]:
        return [round((b - a) * MS) for a, b in zip((0.0, *moments), moments, strict=False)]

    started_ns = round(start_ms * MS)
    ok = outcome == "completed"
    error = {"type": "reset", "message": "gone", "http_status": None, "retry_after_s": None}
    return {
        **dict.fromkeys(LINE_KEYS),
        "request_id": f"r{start_ms}",
        "prompt_id": "1",
        "outcome": outcome,
        "stage": None,
        "name": None,
        "scheduled_ns": None,
        "time_s": UNIX_S + start_ms / 1000,
        "started_ns": started_ns,
        "sent_ns": started_ns,
        "done_ns": started_ns + round(done_ms * MS),
        "connected_ns": None if connected_ms is None else started_ns + round(connected_ms * MS),
        "prompt_tokens": prompt_tokens,
        "output_tokens": tokens,
        "cached_tokens": None,
        "reasoning_tokens": None,
        "reasoning_chunks": 0,
        "token_source": "usage",
        "finish_reason": "stop" if ok else None,
        "stamp_source": "kernel",
        "ttft_s": None,
        "tpot_s": None,
        "e2e_s": done_ms / 1000,
        "output_tokens_per_s": None,
        "chunks": len(text_ms),
        "coalesced_chunks": 0,
        "same_segment_chunks": 0,
        "reconnects": 0,
        "retries": 0,
        "error": None if ok else error,
        "chunk_gaps_ns": gaps(text_ms),
        "chunk_tokens": None,
        "textless_gaps_ns": None if textless_ms is None else gaps(textless_ms),
    }


# The role 10 ms before the first text, the finish 20 ms after the last; usage and [DONE] 30 ms after that.
FIRST = request(0, (100, 120, 140), textless_ms=(90, 160), tokens=3, done_ms=190)
SECOND = request(200, (200, 240, 280, 320), textless_ms=(190, 340), tokens=5, done_ms=370, prompt_tokens=20)
FAILED = request(0, (), tokens=None, done_ms=5, outcome="failed", prompt_tokens=None)


def folder(path: Path, *lines: dict[str, Any], load: dict[str, Any] | None = None, **summary: Any) -> RunFolder:
    path.mkdir(exist_ok=True)
    (path / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tables = {"slo": {"ttft_s": 0.15}, **({} if load is None else {"load": load})}
    scenario = scenario_of(**{"load": {"kind": "closed_loop", "users": 2, "requests": 2}} | tables)
    whole = {"window_s": 100.0, "window_started_unix_s": UNIX_S} | summary
    write_json(path / "summary.json", summary_of(**whole))
    write_json(path / "manifest.json", manifest_of(scenario))
    return RunFolder(path)


def figures(run: RunFolder, name: str) -> dict[str, Any]:
    own = definitions_json("r", read_sample(run), TOOL_DEFINITIONS[name])["figures"]
    assert isinstance(own, dict)
    return own


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return folder(tmp_path / "run", FIRST, SECOND, FAILED)


def test_vllm_counts_every_chunk_with_choices(run: RunFolder) -> None:
    """Stamps 90 100 120 140 160 and 190 200 240 280 320 340: latencies 160 and 340, n 3 and 5."""
    own = figures(run, "vllm")

    assert own["mean_ttft_ms"] == pytest.approx((90 + 190) / 2)
    assert own["mean_e2el_ms"] == pytest.approx((160 + 340) / 2)
    assert own["mean_tpot_ms"] == pytest.approx(((160 - 90) / 2 + (340 - 190) / 4) / 2)
    assert own["mean_itl_ms"] == pytest.approx((10 + 20 + 20 + 20 + 10 + 40 + 40 + 40 + 20) / 9)
    assert own["p99_ttft_ms"] == pytest.approx(90 + 0.99 * 100)
    assert own["duration"] == pytest.approx(0.570, abs=1e-6)
    assert own["output_throughput"] == pytest.approx(8 / 0.570, rel=1e-5)
    assert own["total_token_throughput"] == pytest.approx(38 / 0.570, rel=1e-5)
    assert own["request_goodput"] == pytest.approx(1 / 0.570, rel=1e-5)
    assert (own["completed"], own["failed"]) == (2, 1)
    assert (own["max_output_tokens_per_s"], own["max_concurrent_requests"]) == (11, 2)


def test_sglang_counts_texts_and_ends_with_the_stream(run: RunFolder) -> None:
    own = figures(run, "sglang")

    assert own["mean_ttft_ms"] == pytest.approx((100 + 200) / 2)
    assert own["mean_e2e_latency_ms"] == pytest.approx((190 + 370) / 2)
    assert own["mean_tpot_ms"] == pytest.approx(((190 - 100) / 2 + (370 - 200) / 4) / 2)
    assert own["mean_itl_ms"] == pytest.approx((20 + 20 + 40 + 40 + 40) / 5)
    assert own["max_itl_ms"] == pytest.approx(40)
    assert own["concurrency"] == pytest.approx((0.190 + 0.370) / 0.570, rel=1e-5)
    assert own["max_output_tokens_per_s"] == 7


def test_the_first_output_token_is_the_first_after_reasoning(tmp_path: Path) -> None:
    """One answer without reasoning, first text after 100 ms; one with two chunks of it, its answer after 280 ms."""
    thought = SECOND | {"reasoning_chunks": 2, "reasoning_tokens": 2, "reasoning_source": "usage"}
    start_ns = thought["started_ns"]
    run = folder(tmp_path / "run", FIRST, thought | {"first_answer_ns": start_ns + 280 * MS})

    assert figures(run, "aiperf")["time_to_first_token.avg"] == pytest.approx((100 + 200) / 2)
    assert figures(run, "aiperf")["time_to_first_output_token.avg"] == pytest.approx((100 + 280) / 2)
    assert figures(run, "guidellm")["time_to_first_output_token_ms.successful.mean"] == pytest.approx((100 + 280) / 2)


def test_aiperf_ends_a_request_with_its_last_text(run: RunFolder) -> None:
    own = figures(run, "aiperf")
    itl_ms = (140 - 100) / 2, (320 - 200) / 4

    assert own["request_latency.avg"] == pytest.approx((140 + 320) / 2)
    assert own["inter_token_latency.avg"] == pytest.approx(sum(itl_ms) / 2)
    assert own["output_token_throughput_per_user.avg"] == pytest.approx(sum(1000 / itl for itl in itl_ms) / 2)
    assert own["e2e_output_token_throughput.max"] == pytest.approx(3 / 0.140)
    assert own["time_to_second_token.max"] == pytest.approx(40)
    assert own["time_to_first_token.std"] == pytest.approx(50)
    assert own["benchmark_duration.avg"] == pytest.approx(0.520, abs=1e-6)
    assert own["request_throughput.avg"] == pytest.approx(2 / 0.520, rel=1e-5)
    assert own["request_error_rate.avg"] == pytest.approx(100 / 3)


def test_guidellm_weighs_by_tokens_and_starts_after_the_connection(tmp_path: Path) -> None:
    first = request(0, (100, 120, 140), tokens=3, done_ms=190, connected_ms=4)
    own = figures(folder(tmp_path / "run", first, SECOND, FAILED), "guidellm")
    itl_ms = (140 - 100) / 2, (320 - 200) / 4
    tpot_ms = (140 - 4) / 3, 320 / 5

    assert own["time_to_first_token_ms.successful.mean"] == pytest.approx((96 + 200) / 2)
    assert own["time_to_first_token_ms.successful.median"] == pytest.approx(96)
    assert own["inter_token_latency_ms.successful.mean"] == pytest.approx((itl_ms[0] * 2 + itl_ms[1] * 4) / 6)
    assert own["inter_token_latency_ms.successful.median"] == pytest.approx(itl_ms[1])
    assert own["time_per_output_token_ms.successful.mean"] == pytest.approx((tpot_ms[0] * 3 + tpot_ms[1] * 5) / 8)
    assert own["request_latency.successful.mean"] == pytest.approx((0.186 + 0.370) / 2)
    assert own["requests_per_second.total.mean"] == pytest.approx(3 / 0.566, rel=1e-5)
    assert own["output_tokens_per_second.total.mean"] == pytest.approx(8 / 0.566, rel=1e-5)
    assert own["request_concurrency.total.mean"] == pytest.approx((0.186 + 0.370) / 0.566, rel=1e-5)
    assert own["output_tokens_per_iteration.successful.percentiles.p95"] == pytest.approx(4 / 3)


def test_genai_bench_ends_with_the_usage_and_leaves_short_answers_without_a_speed(tmp_path: Path) -> None:
    short = request(0, (100, 100.5), tokens=2, done_ms=100.6)
    own = figures(folder(tmp_path / "run", FIRST, SECOND, short, FAILED), "genai-bench")
    tpot_s = (0.190 - 0.100) / 2, (0.370 - 0.200) / 4

    assert own["stats.tpot.mean"] == pytest.approx(sum(tpot_s) / 2)
    assert own["stats.output_inference_speed.max"] == pytest.approx(1 / tpot_s[1])
    assert own["stats.output_throughput.max"] == pytest.approx(1 / 0.0006)
    assert own["stats.input_throughput.p50"] == pytest.approx(10 / 0.100)
    assert own["stats.e2e_latency.p75"] == pytest.approx((0.190 + 0.370) / 2)
    assert own["requests_per_second"] == pytest.approx(3 / 0.570, rel=1e-5)
    assert own["error_rate"] == pytest.approx(1 / 4)


@pytest.mark.parametrize("name", TOOL_DEFINITIONS)
def test_what_the_engine_did_not_count_is_unknown_and_not_zero(name: str, tmp_path: Path) -> None:
    uncounted = request(0, (100, 120), tokens=None, done_ms=150, prompt_tokens=None)
    own = figures(folder(tmp_path / "run", uncounted), name)
    keys = {"vllm": "output_throughput", "sglang": "mean_tpot_ms", "aiperf": "inter_token_latency.avg"}
    keys |= {"guidellm": "tokens_per_second.total.mean", "genai-bench": "stats.tpot.mean"}

    assert own[keys[name]] is None


@pytest.mark.parametrize("name", TOOL_DEFINITIONS)
def test_a_run_without_an_answer_has_no_figures_but_its_counts(name: str, tmp_path: Path) -> None:
    own = figures(folder(tmp_path / "run", FAILED), name)

    assert {value for value in own.values() if value} <= {1, 2, 100.0}  # the failure, the users, per cent


def test_a_note_says_what_is_left_out(tmp_path: Path) -> None:
    early = request(-500, (100, 120), tokens=2, done_ms=150)
    cut = request(100, (100,), tokens=None, done_ms=150, outcome="censored")
    old = request(300, (100, 120), textless_ms=None, tokens=2, done_ms=150)
    sample = read_sample(folder(tmp_path / "run", early, FIRST, cut, old))

    assert len(sample.answers) == 2
    assert [note.split()[0] for note in sample.notes] == ["1", "1", "1"]
    assert "outside the window (warm-up, drain)" in sample.notes[0]
    assert "first text is used as the first chunk" in sample.notes[2]


def test_a_warm_up_whose_end_is_unknown_is_counted_with_a_note(tmp_path: Path) -> None:
    load = {"kind": "closed_loop", "users": 2, "requests": 2, "warmup_s": 3.0}
    run = folder(tmp_path / "run", FIRST, load=load, window_started_unix_s=None)

    assert "it is counted" in read_sample(run).notes[0]


@pytest.mark.parametrize("name", TOOL_DEFINITIONS)
def test_the_command_prints_the_tools_names_and_its_source(name: str, run: RunFolder) -> None:
    printed = CliRunner().invoke(main, ["report", str(run.path), "--definitions", name])
    own = CliRunner().invoke(main, ["report", str(run.path), "--definitions", name, "--json"])
    words = {"vllm": "Mean TTFT (ms):                          140.00", "sglang": "Median ITL (ms):"}
    words |= {"aiperf": "Output Token Throughput Per User (tokens/sec/user)", "guidellm": "TTFOT"}
    words |= {"genai-bench": "output_inference_speed"}

    assert printed.exit_code == own.exit_code == 0, printed.output
    assert words[name] in printed.output
    assert "read in" in printed.output
    assert "…" not in printed.output
    assert json.loads(own.output)[0]["tool"] == TOOL_DEFINITIONS[name].tool


def test_a_folder_without_requests_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    run = folder(tmp_path / "run")
    result = CliRunner().invoke(main, ["report", str(run.path), "--definitions", "vllm"])

    assert result.exit_code == 2
    assert "no requests*.jsonl" in result.output


def test_chunks_without_text_are_read_back_from_the_run_folder(tmp_path: Path) -> None:
    record = RequestRecord(
        request_id="r",
        prompt_id="1",
        started_ns=5,
        done_ns=900,
        outcome=Outcome.COMPLETED,
        chunk_ns=np.array([100, 130], dtype=np.int64),
        textless_ns=np.array([90, 160], dtype=np.int64),
    )
    log = RequestLog(tmp_path / "requests.jsonl", with_chunks=True)
    log.append([record])
    log.close()

    written = read_records(RunFolder(tmp_path), "requests.jsonl")
    assert written is not None
    [read] = written

    assert read.textless_ns is not None
    assert (read.chunk_ns.tolist(), read.textless_ns.tolist()) == ([100, 130], [90, 160])


def test_percentiles_are_each_tools_own() -> None:
    values = [1.0, 2.0, 3.0, 4.0]

    assert linear(values, 50) == 2.5
    assert Weighted(values=values, weights=[1.0, 1.0, 1.0, 1.0]).quantile(0.5) == 2.0
    assert Weighted(values=values, weights=[1.0, 1.0, 1.0, 5.0]).quantile(0.5) == 4.0
