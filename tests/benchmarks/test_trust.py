"""The trust table is fair: what counts as saying so, which figures are right, and the page is made of its data."""

import dataclasses
import http.client
import json
import re
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.comparisons.client_cost.evalscope import Evalscope
from benchmarks.comparisons.client_cost.inference_perf import InferencePerf
from benchmarks.comparisons.trust import running
from benchmarks.comparisons.trust.__main__ import DATA, PAGE, main, merged, why_not
from benchmarks.comparisons.trust.faults import FAULTS, WORK
from benchmarks.comparisons.trust.judging import Figure, Quote, counted, figures, lines_of, read, said
from benchmarks.comparisons.trust.page import trust_page
from benchmarks.comparisons.trust.results import Finding, find
from benchmarks.comparisons.trust.tools import TOOLS
from benchmarks.tools.bench_run import Cores
from benchmarks.tools.faulty_engine import Answer, Faults, FaultyEngine, Served
from benchmarks.tools.load_client import Reported, Task

MS = 1_000_000
BY_NAME = {fault.name: fault for fault in FAULTS}


def served(answer: Answer = Answer.GOOD, *, at_ms: int = 0, ttft_ms: int = 200, tokens: int = 3) -> Served:
    """Build a request that came at a time and was answered with tokens 50 ms apart."""
    writes = [(at_ms + ttft_ms + 50 * k) * MS for k in range(tokens)]
    return Served(
        answer=answer,
        received_ns=at_ms * MS,
        looked_ns=at_ms * MS,
        cached=False,
        writes_ns=writes,
        done_ns=writes[-1] if writes else at_ms * MS,
    )


def quotes(*texts: str) -> list[Quote]:
    return [Quote(where="output", text=text) for text in texts]


class TestSayingSo:
    @pytest.mark.parametrize(
        ("fault", "line"),
        [
            ("http-500", "10 of 48 requests failed."),
            ("http-500", "requests 48 started = 38 completed + 10 failed + 0 censored"),
            ("http-500", "request_totals.errored: 10"),
            ("http-500", "Failed Requests: 10"),
            ("all-fail", "Traceback (most recent call last):"),
            ("refused", "Cannot connect to host 127.0.0.1:8000"),
            ("error-event", "CUDA error: out of memory"),
            ("abort", "finish reasons length 38, abort 10"),
            ("starved", "event_loop_lag_p99_s 0.06649 s: a client that is late by more than 5 %"),
            ("starved", "CPU usage above 90%! This may constrain your throughput"),
            ("warm-cache", "KV Cache Hit Rate (%): 98.5"),
            ("early-end", "osl_mismatch_count.avg: 48"),
            ("sigterm", "Got SIGTERM signal"),
            ("clock", "the clock was set forward by 5 s"),
        ],
    )
    def test_a_line_that_names_the_fault_counts(self, fault: str, line: str) -> None:
        found = said(quotes("all is well", line), [], BY_NAME[fault].pattern)
        assert found is not None
        assert found.text == line

    @pytest.mark.parametrize(
        ("fault", "line"),
        [
            ("http-500", "38 completed + 0 failed + 0 censored"),
            ("http-500", "Failed Requests: 0"),
            ("http-500", "successful=1 errored=0 incomplete=0"),
            ("http-500", "output tokens/s 1,500"),
            ("abort", "Successful requests: 48"),
            ("starved", "concurrency: 8, workers: 1"),
            ("warm-cache", "KV Cache Hit Rate (%): 0.0"),
            ("early-end", "Total generated tokens: 384"),
            ("warm-up", "warmup_requests: 0"),
            ("sigterm", "Shutting down (exit code 0)"),
            ("clock", "clock: monotonic"),
        ],
    )
    def test_a_line_that_does_not_name_it_does_not_count(self, fault: str, line: str) -> None:
        assert said(quotes(line), [], BY_NAME[fault].pattern) is None

    def test_a_usual_line_does_not_count_but_for_a_number_that_was_0(self) -> None:
        pattern = BY_NAME["early-end"].pattern
        usual = quotes("osl_mismatch_threshold: 5", "osl_mismatch_count: 0")
        assert said(quotes("osl_mismatch_threshold: 6"), usual, pattern) is None
        assert said(quotes("osl_mismatch_count: 48"), usual, pattern) is not None

    def test_output_and_reports_are_read_line_by_line_without_frames(self, tmp_path: Path) -> None:
        (tmp_path / "output.txt").write_text("\x1b[32m│ errors │ 3 │\x1b[0m\n\n")
        (tmp_path / "report.json").write_text(json.dumps({"a": {"failed": 2, "each": [1, 2, 3, 4, 5]}, "b": None}))
        lines = list(lines_of(tmp_path, tmp_path / "output.txt", ["report.json", "absent*"]))
        assert [line.text for line in lines] == ["errors 3", "a.failed: 2", "a.each: 1", "a.each: 2", "a.each: 3"]
        assert [line.where for line in lines[:2]] == ["output", "report.json"]


class TestFigures:
    def test_the_figures_of_the_log_are_right(self) -> None:
        log = [served(at_ms=1000 * k) for k in range(4)] + [served(Answer.CUT, at_ms=4000, tokens=1)]
        reported = Reported(
            completed=4,
            failed=1,
            output_tokens_per_s=12 / 4.2,
            ttft_p50_s=0.2,
            ttft_p99_s=0.9,
            tpot_p50_s=0.05,
            itl_p99_s=0.05,
        )
        assert all(figure.right for figure in figures(log, reported, 48))
        assert len(figures(log, reported, 48)) == 6  # a p99 of five values is not judged

    @pytest.mark.parametrize(
        ("changed", "wrong"),
        [
            ({"completed": 5, "failed": 0}, {"completed", "failed"}),
            ({"failed": 0}, {"failed"}),
            ({"ttft_p50_s": 0.205}, {"ttft_p50_s"}),
            ({"ttft_p50_s": 0.203}, set()),
            ({"itl_p50_s": 0.0}, {"itl_p50_s"}),
            ({"output_tokens_per_s": 13 / 4.2}, set()),
            ({"output_tokens_per_s": 15 / 4.2}, {"output_tokens_per_s"}),
        ],
    )
    def test_a_figure_is_wrong_beyond_2_per_cent(self, changed: dict[str, float], wrong: set[str]) -> None:
        log = [served(at_ms=1000 * k) for k in range(4)] + [served(Answer.CUT, at_ms=4000, tokens=1)]
        reported = dataclasses.replace(Reported(completed=4, failed=1), **changed)  # type: ignore[arg-type]
        assert {figure.name for figure in figures(log, reported, 48) if not figure.right} == wrong

    def test_where_nothing_was_answered_0_is_wrong(self) -> None:
        log = [served(Answer.HTTP_500, tokens=0) for _ in range(3)]
        wrong = {figure.name for figure in figures(log, Reported(completed=0, failed=3, ttft_p50_s=0.0), 48)}
        assert wrong == {"completed", "failed", "ttft_p50_s"}
        assert [f.right for f in figures(log, Reported(completed=0, failed=3, ttft_p50_s=0.0), 48)] == [
            True,
            True,
            False,
        ]

    def test_not_a_number_is_unknown(self) -> None:
        reported = Reported(completed=0, ttft_p50_s=float("nan"))
        assert [figure.name for figure in figures([], reported, 48)] == ["completed", "failed"]

    def test_a_request_came_between_two_looks_of_the_engine(self) -> None:
        late = dataclasses.replace(served(), looked_ns=-50 * MS)
        (figure,) = [
            each for each in figures([late], Reported(completed=1, ttft_p50_s=0.23), 48) if "ttft" in each.name
        ]
        assert figure.right
        assert figure.true == pytest.approx((0.2, 0.25))

    def test_a_tool_that_has_enough_leaves_out_what_is_in_flight(self) -> None:
        in_flight = [dataclasses.replace(served(Answer.GONE, at_ms=k), done_ns=0) for k in range(48, 56)]
        log = [*(served(at_ms=k) for k in range(48)), *in_flight]
        assert counted(log, 48) == log[:48]
        assert counted(log, 60) == log

    def test_a_tool_that_counts_more_than_requested_did_them(self) -> None:
        log = [served(at_ms=k) for k in range(56)]
        assert all(figure.right for figure in figures(log, Reported(completed=52), 48))
        assert not all(figure.right for figure in figures(log, Reported(completed=60), 48))

    def test_early_answers_are_complete(self) -> None:
        assert all(figure.right for figure in figures([served(Answer.EARLY)] * 2, Reported(completed=2), 48))

    def test_without_a_report_there_are_no_figures(self) -> None:
        assert read(lambda: Reported(**json.loads("{}"))) is None
        assert read(lambda: Reported(completed=1)) == Reported(completed=1)


class TestFindings:
    def finding(self, **changed: object) -> Finding:
        figure = Figure(name="failed", reported=0, true=(10.0,))
        first = Finding(tool="llmload", fault="cut", exit_code=0, figures=(figure,))
        return dataclasses.replace(first, **changed)  # type: ignore[arg-type]

    def test_wrong_and_not_said_is_silent(self) -> None:
        assert self.finding().silent
        assert not self.finding(exit_code=1).silent
        assert not self.finding(quote=Quote(where="output", text="cut")).silent
        assert not self.finding(left_out=("failed",)).silent
        assert self.finding(exit_code=None).says_so

    def test_they_are_kept_as_json(self) -> None:
        kept = self.finding(quote=Quote(where="output", text="cut"))
        assert Finding.from_json(json.loads(json.dumps(kept.as_json()))) == kept

    def test_a_new_finding_takes_the_place_of_the_old_one(self) -> None:
        old = merged({}, [self.finding(exit_code=7), self.finding(fault="none")], {"llmload": "1"})
        new = merged(old, [self.finding()], {"vllm": "2"})
        assert [(each["fault"], each["exit_code"]) for each in new["findings"]] == [("none", 0), ("cut", 0)]
        assert new["releases"] == {"llmload": "1", "vllm": "2"}

    def test_what_cannot_be_injected_says_why(self) -> None:
        clock, warm_up = BY_NAME["clock"], BY_NAME["warm-up"]
        assert "--step-clock" in str(why_not(TOOLS["llmload"], clock, may_step_clock=False))
        assert why_not(TOOLS["llmload"], clock, may_step_clock=True) is None
        assert "separate" in str(why_not(TOOLS["sglang-bench"], warm_up, may_step_clock=True))


class TestPage:
    def test_it_is_made_of_its_data(self) -> None:
        assert PAGE.read_text(encoding="utf-8") == trust_page(json.loads(DATA.read_text(encoding="utf-8")))

    def test_every_quote_names_its_fault(self) -> None:
        for cell in json.loads(DATA.read_text(encoding="utf-8"))["findings"]:
            if cell["quote"]:
                assert re.search(BY_NAME[cell["fault"]].pattern, cell["quote"]["text"])

    def test_an_unknown_tool_is_refused(self) -> None:
        result = CliRunner().invoke(main, ["--only", "wrk"])
        assert result.exit_code == 2
        assert "known are llmload" in result.output


class TestEngine:
    def ask(self, engine: FaultyEngine, path: str = "/v1/chat/completions") -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=10)
        body = {"messages": [{"role": "user", "content": "x"}], "prompt": "x", "stream": True, "max_tokens": 4}
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            return connection.getresponse().read()
        except http.client.IncompleteRead as cut:
            return cut.partial
        finally:
            connection.close()

    @pytest.mark.parametrize(
        ("strike", "tokens", "end"),
        [
            (None, 4, b'"finish_reason": "length"'),
            (Answer.HTTP_500, 0, b"out of memory"),
            (Answer.ERROR_EVENT, 2, b"out of memory"),
            (Answer.CUT, 2, b" word1"),
            (Answer.ABORT, 2, b'"finish_reason": "abort"'),
            (Answer.EARLY, 2, b'"finish_reason": "stop"'),
        ],
    )
    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
    def test_it_does_one_thing_wrong_and_logs_it(
        self, strike: Answer | None, tokens: int, end: bytes, path: str
    ) -> None:
        with FaultyEngine(Faults(strike=strike), tokens=4, ttft_s=0.002, gap_s=0.001) as engine:
            body = self.ask(engine, path)
        (request,) = engine.served
        assert request.answer is (strike or Answer.GOOD)
        assert len(request.writes_ns) == body.count(b" word") == tokens
        assert end in body
        assert request.looked_ns <= request.received_ns <= request.done_ns

    def test_it_answers_known_prompts_sooner(self) -> None:
        with FaultyEngine(Faults(caching=True), tokens=1, ttft_s=0.04, gap_s=0) as engine:
            new, known = self.ask(engine), self.ask(engine)
        assert b'"cached_tokens": 0' in new
        assert b'"cached_tokens": 0' not in known
        assert [request.cached for request in engine.served] == [False, True]

    def test_every_fifth_from_the_third_on(self) -> None:
        cut = Faults(strike=Answer.CUT, every=5, first=3)
        assert [number for number in range(1, 15) if cut.of(number) is Answer.CUT] == [3, 8, 13]


class TestTools:
    def task(self, folder: Path) -> Task:
        return Task(work=WORK, requests=48, base_url="http://x:1", ca_file=None, model="faulty", folder=folder)

    def test_inference_perf(self, tmp_path: Path) -> None:
        command = InferencePerf().command(self.task(tmp_path))
        settings = json.loads((tmp_path / "settings.yml").read_text())
        assert command.arguments[1:] == ("-c", "settings.yml")
        assert settings["load"]["stages"] == [{"num_requests": 48, "concurrency_level": 8}]
        latency = {"mean": 2.0, "median": 1.0, "p99": 3.0}
        report = {
            "successes": {
                "count": 40,
                "throughput": {"output_tokens_per_sec": 7.0},
                "latency": {
                    "time_to_first_token": latency,
                    "time_per_output_token": None,
                    "inter_token_latency": latency,
                },
            },
            "failures": {"count": 8},
        }
        (tmp_path / "reports").mkdir()
        (tmp_path / "reports" / "summary_lifecycle_metrics.json").write_text(json.dumps(report))
        reported = InferencePerf().reported(self.task(tmp_path))
        assert (reported.completed, reported.failed, reported.ttft_p50_s, reported.tpot_p50_s) == (40, 8, 1.0, None)

    def test_evalscope(self, tmp_path: Path) -> None:
        command = Evalscope().command(self.task(tmp_path))
        assert "--no-test-connection" in command.arguments
        folder = tmp_path / "outputs" / "faulty" / "parallel_8_number_48"
        folder.mkdir(parents=True)
        counts = {"Success Requests": 40, "Failed Requests": 8, "Output Throughput (tok/s)": 7.0, "Avg TTFT (ms)": 200}
        (folder / "benchmark_summary.json").write_text(json.dumps(counts))
        (folder / "benchmark_percentile.json").write_text(json.dumps([{"Percentiles": "50%", "TTFT (ms)": 199}]))
        reported = Evalscope().reported(self.task(tmp_path))
        assert (reported.completed, reported.failed, reported.ttft_p50_s, reported.ttft_p99_s) == (40, 8, 0.199, None)

    def test_a_longer_warm_up_is_requested_by_each_tools_own_option(self, tmp_path: Path) -> None:
        fault = BY_NAME["warm-up"]
        for name, words in {"guidellm": "warmup=60", "genai-bench": "--warmup-ratio 0.9"}.items():
            command = running.command_for(TOOLS[name], fault, self.task(tmp_path))
            assert words in " ".join(command.arguments)
        running.command_for(TOOLS["llmload"], fault, self.task(tmp_path))
        assert "warmup_s = 60" in (tmp_path / "scenario.toml").read_text()


def test_llmload_says_that_requests_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "REQUESTS", 8)
    monkeypatch.setattr(running, "WORK", dataclasses.replace(WORK, streams=4, tokens=2, ttft_s=0.02))
    tool, fault = TOOLS["llmload"], BY_NAME["http-500"]
    run = running.run_tool(tool, fault, Cores.of_this_machine(), tmp_path)
    finding = find(tool, fault, run, None)
    assert finding.exit_code == 1
    assert finding.quote is not None
    assert "2 failed" in finding.quote.text
    counts = {figure.name: (figure.reported, figure.right) for figure in finding.figures}
    assert [counts["completed"], counts["failed"]] == [(6, True), (2, True)]
    assert finding.command == "locust --headless --config scenario.toml"


def test_a_signal_is_sent_once_in_the_middle_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []

    def note(pid: int, number: int) -> None:
        sent.append((pid, number))

    monkeypatch.setattr("os.kill", note)
    monkeypatch.setattr(running, "MIDDLE_S", 0.0)
    requests: list[Served] = []
    with running.Injection(BY_NAME["sigterm"], lambda: requests, 0) as injection:
        injection.meanwhile(7)
        early = len(sent)
        requests.append(served())
        injection.meanwhile(7)
        injection.meanwhile(7)
    assert early == 0
    assert sent == [(7, signal.SIGTERM)]


def test_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[float] = []
    monkeypatch.setattr(running, "step_clock", steps.append)
    with running.Injection(BY_NAME["clock"], lambda: [served(at_ms=-3000)], 0) as injection:
        injection.meanwhile(7)
    assert steps == [5.0, -5.0]
