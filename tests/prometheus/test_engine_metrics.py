"""Metrics of engines and GPUs are read under every engine's names, and summed up beside the client's figures."""

import contextlib
import csv
import gzip
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, openmetrics
from prometheus_client.openmetrics.exposition import ALLOWUTF8

from benchmarks.tools.truth_engine.engine import certificate_files
from llmload.access.secrecy import Access
from llmload.errors import ConfigError
from llmload.metrics.totals import RunTotals
from llmload.prometheus.pages import (
    ENGINE,
    GPU,
    MAX_CHARS,
    MAX_LINE_CHARS,
    MAX_LINES,
    MAX_PART_CHARS,
    ScrapedFigure,
    read_page,
)
from llmload.prometheus.scrape import (
    MAX_PARTS,
    MAX_RESPONSE_BYTES,
    START_WAIT_S,
    EngineScraper,
    ScrapeTarget,
    engine_summary,
    gpu_summary,
    samples_file,
)
from llmload.runs.folder import ENGINE_METRICS, GPU_METRICS, RunFolder
from llmload.runs.summary_parts import EngineMetrics
from llmload.scenario import load_scenario
from llmload.scenario.sections import Monitor
from llmload.simulator import SimulationSettings, spawn
from tests.test_http_get import ok, serving

DATA = Path(__file__).with_name("data")
"""Metrics of a vLLM and a llama.cpp on CPU; vLLM's without buckets and without Python's own series."""
TEXTS = {
    "vllm, new names": """# HELP vllm:num_requests_running r
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a {b}"} 3.0
vllm:num_requests_waiting{engine="0",model_name="a {b}"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="a {b}"} 0.5
vllm:generation_tokens_total{engine="0",model_name="a {b}"} 100.0
vllm:generation_tokens_created{engine="0",model_name="a {b}"} 1.79e+09
vllm:inter_token_latency_seconds_sum{engine="0",model_name="a {b}"} 2.0
vllm:inter_token_latency_seconds_count{engine="0",model_name="a {b}"} 100.0
""",
    "vllm, old names": """vllm:num_requests_running{model_name="m"} 3.0
vllm:num_requests_waiting{model_name="m"} 2.0
vllm:gpu_cache_usage_perc{model_name="m"} 0.5
vllm:generation_tokens_total{model_name="m"} 100.0
vllm:time_per_output_token_seconds_sum{model_name="m"} 2.0
vllm:time_per_output_token_seconds_count{model_name="m"} 100.0
""",
    "sglang": """sglang:num_running_reqs{model_name="m"} 3.0
sglang:num_queue_reqs{model_name="m"} 2.0
sglang:token_usage{model_name="m"} 0.5
sglang:generation_tokens_total{model_name="m"} 100.0
sglang:inter_token_latency_seconds_sum{model_name="m"} 2.0
sglang:inter_token_latency_seconds_count{model_name="m"} 100.0
""",
    "tgi": "tgi_batch_current_size 3\ntgi_queue_size 2\ntgi_request_generated_tokens_sum 100\n",
    "llama.cpp": "llamacpp:requests_processing 3\nllamacpp:requests_deferred 2\nllamacpp:tokens_predicted_total 100\n",
}
DCGM = """DCGM_FI_DEV_FB_USED{gpu="0",UUID="x",device="nvidia0"} {used0}
DCGM_FI_DEV_FB_USED{gpu="1",UUID="y",device="nvidia1"} 2048
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="x"} 300.5
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="x"} {energy0}
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="1",UUID="y"} 5000
DCGM_FI_PROF_NVLINK_TX_BYTES{gpu="0",UUID="x"} 1000000
"""


def parse_figures(text: str, figures: Sequence[ScrapedFigure], by: str = "") -> dict[str, dict[str, float]]:
    return read_page(text, figures, by).parts


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_each_engines_own_names_give_the_same_figures(text: str) -> None:
    figures = parse_figures(text, ENGINE)[""]

    assert (figures["running"], figures["waiting"], figures["output_tokens"]) == (3, 2, 100)
    assert figures.get("kv_cache_usage", 0.5) == 0.5
    assert figures.get("itl_sum_s", 2.0) / figures.get("itl_count", 100.0) == 0.02


def test_the_metrics_of_real_engines_are_read() -> None:
    vllm, llama = (parse_figures((DATA / f"{name}.metrics").read_text(), ENGINE)[""] for name in ("vllm", "llamacpp"))

    assert (vllm["prompt_tokens"], vllm["output_tokens"], vllm["ttft_count"]) == (1498, 2482, 43)
    assert vllm["itl_count"] == 2482 - 43
    assert vllm["ttft_sum_s"] / vllm["ttft_count"] == pytest.approx(0.11301, rel=1e-4)
    drafted = {figure.name for figure in ENGINE if figure.name.startswith(("draft", "accepted_"))}
    assert {figure.name for figure in ENGINE} - drafted == vllm.keys()  # it had no speculative decoding
    assert (llama["prompt_tokens"], llama["output_tokens"], llama["running"]) == (35, 32, 0)


def test_counts_of_several_ranks_add_up_and_shares_do_not() -> None:
    text = "".join(f'vllm:{n}{{engine="{e}"}} {v}\n' for n in ("num_requests_running",) for e, v in ((0, 3), (1, 4)))
    text += 'vllm:kv_cache_usage_perc{engine="0"} 0.5\nvllm:kv_cache_usage_perc{engine="1"} 0.7\n'
    text += 'vllm:num_requests_waiting{engine="0"} NaN\n'

    assert parse_figures(text, ENGINE) == {"": {"running": 7, "kv_cache_usage": 0.7}}


def test_accepted_drafts_are_read_in_all_and_by_position() -> None:
    text = "".join(
        f'vllm:spec_decode_num_{name}_total{{engine="{engine}"}} {value}\n'
        for name, value in (("drafts", 10), ("draft_tokens", 30), ("accepted_tokens", 15))
        for engine in (0, 1)
    )
    name = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    text += "".join(f'{name}{{engine="{e}",position="{p}"}} {v}\n' for e in (0, 1) for p, v in enumerate((8, 5, 2)))
    text += f'{name}_created{{position="0"}} 1.7e9\n'

    assert parse_figures(text, ENGINE) == {
        "": {
            "drafts": 20,
            "draft_tokens": 60,
            "accepted_tokens": 30,
            "accepted_at_1": 16,
            "accepted_at_2": 10,
            "accepted_at_3": 4,
        }
    }


def test_text_without_known_series_gives_no_figures() -> None:
    assert parse_figures("<html>not metrics</html>\nvllm:num_requests_running\n", ENGINE) == {}


@pytest.mark.parametrize(
    "exposition",
    [
        'vllm:prompt_tokens_total{model_name="m"} 5 # {trace_id="x"} 0.3\n',
        'vllm:prompt_tokens_total{model_name="m"} 5 # {trace_id="a } b"} 0.3 1790000000.5\n',
        'vllm:prompt_tokens_total{model_name="m"} 5 1790000000 # {trace_id="x"} 0.3\n',
        'vllm:prompt_tokens_total 5 # {trace_id="x"} 0.3\n',
    ],
)
def test_an_exemplar_is_not_read_as_the_value(exposition: str) -> None:
    text = f"# TYPE vllm:prompt_tokens counter\n{exposition}# EOF\n"

    assert parse_figures(text, ENGINE) == {"": {"prompt_tokens": 5}}


@pytest.mark.parametrize(
    ("labels", "gpu"),
    [
        ('Hostname="h", gpu="0"', "0"),
        ('Hostname="h",gpu = "0"', "0"),
        (r'modelName="a \"b\", c",gpu="1"', "1"),
        (r'modelName="x,gpu=\"7\"",gpu="1"', "1"),
        (r'modelName="x,gpu=\"7\""', ""),
        (r'path="C:\\",gpu="2"', "2"),
        (r'gpu="a\"b"', 'a"b'),
        ('gpu="2",', "2"),
        ('other_gpu="3"', ""),
    ],
)
def test_a_label_is_read_as_the_format_defines_it(labels: str, gpu: str) -> None:
    assert parse_figures(f"DCGM_FI_DEV_POWER_USAGE{{{labels}}} 300\n", GPU, "gpu") == {gpu: {"power_w": 300}}


def test_a_line_that_cannot_be_parsed_does_not_hide_the_others() -> None:
    text = 'vllm:num_requests_running{engine=0} 3\nvllm:num_requests_running{engine="1"} 4\r\n'
    text += "vllm:num_requests_waiting many\nvllm:num_requests_waiting{\nvllm:num_requests_waiting{a\\b =, ==} 1\n"

    assert parse_figures(text, ENGINE) == {"": {"running": 4}}


POWER = 'DCGM_FI_DEV_POWER_USAGE{gpu="%s"} 300\n'


@pytest.mark.parametrize(
    ("text", "parts", "lost", "why"),
    [
        (POWER % "0" + "DCGM_FI_DEV_POWER_USAGE{gpu=0} 1\n" + POWER % "1", 2, 1, "is not of the format"),
        (POWER % ("x" * MAX_PART_CHARS) + POWER % ("y" * (MAX_PART_CHARS + 1)), 1, 1, "label gpu has more than 100"),
        (POWER % "0" + POWER % ("1" * MAX_LINE_CHARS), 1, 1, "too long"),
        (POWER % ('1",' + ",".join(f'l{i}="v' + '"' * (i < 99) for i in range(100))), 0, 1, "more than 64 labels"),
        ("".join(POWER % number for number in range(MAX_LINES + 9)), MAX_LINES, 1, "more than 1,000 lines"),
        ("".join(POWER % f'{i}",l="{"x" * 1000}' for i in range(900)), MAX_CHARS // 1045, 1, "256,000 characters"),
        ("vllm:num_requests_running 3\n" * 100_000 + POWER % "0", 1, 0, ""),
    ],
    ids=["format", "name", "line", "labels", "lines", "characters", "other series"],
)
def test_a_page_is_read_within_limits_and_says_what_it_loses(text: str, parts: int, lost: int, why: str) -> None:
    page = read_page(text, GPU, "gpu")

    assert len(page.parts) == pytest.approx(parts, abs=1 if parts > 100 else 0)
    assert len(page.parts) <= MAX_LINES
    assert page.lost == lost
    assert why in page.why


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "-1", "9223372036854775794", "1e400", "1_0", "0x1", ""])
def test_a_value_that_is_not_a_figure_is_absent(value: str) -> None:
    page = read_page(f"vllm:num_requests_running {value}\nvllm:num_requests_waiting 2\n", ENGINE)

    assert page.parts == {"": {"waiting": 2}}


def test_a_series_that_is_there_twice_counts_once() -> None:
    text = 'vllm:num_requests_running{a="1",b="2"} 3\nvllm:num_requests_running{b="2",a="1"} 4 1790000000000\n'

    assert parse_figures(text, ENGINE) == {"": {"running": 3}}


def test_a_key_in_the_name_of_a_part_is_hidden() -> None:
    page = read_page(POWER % "sk-secret1", GPU, "gpu", hide=lambda text: text.replace("sk-secret1", "***"))

    assert page.parts == {"***": {"power_w": 300}}


def test_what_the_library_writes_as_open_metrics_is_read_as_it_was_set() -> None:
    registry = CollectorRegistry()
    labels = {"model_name": 'a "b", gpu="9" \\ }\n#'}
    counter = Counter("vllm:prompt_tokens", "Prompt tokens.", list(labels), registry=registry)
    counter.labels(**labels).inc(5, exemplar={"trace_id": "x"})
    histogram = Histogram("vllm:time_to_first_token_seconds", "TTFT.", registry=registry)
    histogram.observe(0.25, exemplar={"trace_id": "y"})
    open_metrics = openmetrics.exposition.generate_latest(registry, ALLOWUTF8).decode()
    expected = {"prompt_tokens": 5, "ttft_sum_s": 0.25, "ttft_count": 1}

    assert parse_figures(open_metrics, ENGINE, "gpu") == {"": expected}
    assert parse_figures(generate_latest(registry).decode(), ENGINE, "gpu") == {"": expected}


def grown(tmp_path: Path, *samples: str) -> ScrapeTarget:
    target = ScrapeTarget("http://engine/metrics", ENGINE, samples_file(RunFolder(tmp_path), ENGINE_METRICS, ENGINE))
    for text in samples:
        target.record(parse_figures(text, ENGINE))
    return target


def test_the_summary_compares_the_engines_means_with_the_clients(tmp_path: Path) -> None:
    def said(tokens: int, count: int, total_s: float, running: int) -> str:
        return (
            f"vllm:generation_tokens_total {tokens}\nvllm:num_requests_running {running}\n"
            f"vllm:time_to_first_token_seconds_count {count}\nvllm:time_to_first_token_seconds_sum {total_s}\n"
            f"vllm:prefix_cache_queries_total {count * 100}\nvllm:prefix_cache_hits_total {count * 25}\n"
        )

    target = grown(tmp_path, said(50, 10, 1.0, 0), said(60, 11, 1.1, 7), said(150, 14, 1.4, 2))
    totals = RunTotals(arrived_tokens=98)
    totals.distributions["ttft_s"].add_many(np.array([0.12, 0.12]))
    totals.out_of_window["ttft_s"] = RunTotals().distributions["ttft_s"]
    totals.out_of_window["ttft_s"].add(0.15)

    summary = engine_summary([target], totals)

    assert summary.ttft_mean_s == pytest.approx(0.4 / 4)
    assert summary.client_ttft_mean_s == pytest.approx(0.13)
    assert summary.ttft_gap_s == pytest.approx(0.03)
    assert (summary.output_tokens, summary.output_tokens_gap) == (100, 2)
    assert (summary.running_max, summary.waiting_max, summary.preemptions) == (7, None, None)
    assert summary.prefix_cache_hit_share == 0.25
    rows = list(csv.DictReader((tmp_path / ENGINE_METRICS).read_text().splitlines()))
    assert [(row["running"], row["waiting"]) for row in rows] == [("0.0", ""), ("7.0", ""), ("2.0", "")]


def test_a_counter_that_was_reset_has_no_increase(tmp_path: Path) -> None:
    target = grown(tmp_path, "vllm:generation_tokens_total 50\n", "vllm:generation_tokens_total 10\n")

    assert engine_summary([target], RunTotals()).output_tokens is None


def test_a_file_that_cannot_be_written_ends_neither_sampling_nor_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path / "missing")
    target = ScrapeTarget("http://engine/metrics", ENGINE, samples_file(folder, ENGINE_METRICS, ENGINE))
    for tokens in (50, 60, 80):
        target.record(parse_figures(f"vllm:generation_tokens_total {tokens}\n", ENGINE))

    assert engine_summary([target], RunTotals()).output_tokens == 30
    assert [record.message.split("; ")[0].partition(": ")[2] for record in caplog.records] == [
        "No such file or directory"
    ]
    assert folder.faults.unwritten == {ENGINE_METRICS: "No such file or directory"}


def test_gpus_are_separate_in_the_file_and_summed_in_the_summary(tmp_path: Path) -> None:
    target = ScrapeTarget("http://gpu/metrics", GPU, samples_file(RunFolder(tmp_path), GPU_METRICS, GPU), by="gpu")
    for used, energy in ((512, 1000), (1024, 4000), (256, 7000)):
        time.sleep(0.1)
        text = DCGM.replace("{used0}", str(used)).replace("{energy0}", str(energy))
        target.record(parse_figures(text, GPU, "gpu"))

    summary = gpu_summary([target], RunTotals(arrived_tokens=3))

    assert (summary.gpus, summary.memory_used_max_gib, summary.power_max_w) == (2, 3.0, 300.5)
    assert (summary.energy_j, summary.energy_j_per_output_token) == (6.0, 2.0)
    assert summary.nvlink_rx_max_bytes_per_s is summary.nvlink_rx_bytes is None
    assert summary.nvlink_tx_bytes is not None
    assert 1e6 * 0.2 <= summary.nvlink_tx_bytes < 1e6 * 20, "a million bytes a second, over two tenths of a second"
    assert summary.memory_estimate_gib is None
    sized = gpu_summary([target], RunTotals(), {"weights": 2**30, "overhead": 2**29, "kv_cache": 2**31})
    assert (sized.memory_estimate_gib, sized.memory_estimate_with_kv_cache_gib) == (3.0, 7.0)
    assert parse_figures("DCGM_FI_DEV_FB_USED 9223372036854775794\n", GPU) == {}, "DCGM's value for: unknown"
    assert [row["part"] for row in csv.DictReader((tmp_path / GPU_METRICS).read_text().splitlines())] == [
        "0",
        "1",
    ] * 3


def test_the_simulated_engine_is_read_and_an_absent_one_is_not_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with spawn(SimulationSettings(model="m")) as engine:
        urls = [f"{engine.url}/metrics", engine.url]
        watch = EngineScraper(Monitor(engine_metrics_url=urls), RunFolder(tmp_path))
        watch.begin()

    metrics, gpus = watch.summary(RunTotals())

    assert gpus is None
    assert metrics is not None
    assert (metrics.samples, metrics.failed_reads) == (1, 1)
    assert metrics.running_max == 0
    assert "404: Not Found: the address has no path, engines have /metrics" in caplog.text


def test_only_the_engines_own_pages_get_its_headers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    access = Access(api_key="sk-secret1", secret_headers={"X-Gate": "gate-secret2"})
    refused = b"HTTP/1.1 401 who is gate-secret2\r\nContent-Length: 0\r\n\r\n"
    with serving(refused) as engine, serving(ok(b"")) as other:
        urls = [f"{engine.url}/metrics", f"{other.url}/metrics"]
        monitor = Monitor(engine_metrics_url=urls, dcgm_url=f"{other.url}/gpus")
        watch = EngineScraper(monitor, RunFolder(tmp_path), engine_urls=[f"{engine.url}/v1"], access=access)
        watch.begin()

    assert len(engine.heads) == 1
    assert {"x-gate: gate-secret2", "authorization: bearer sk-secret1"} <= set(engine.heads[0].lower().split("\r\n"))
    assert len(other.heads) == 2
    assert "secret" not in "".join(other.heads)
    assert f"no metrics from {engine.url}/metrics: HTTP Error 401: who is ***" in caplog.text


PAGES: dict[str, tuple[bytes, float]] = {
    "silent": (b"", 0.0),
    "drips its head": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 90, 0.02),
    "drips its body": (b"HTTP/1.1 200 OK\r\n\r\n" + b"vllm:num_requests_running 3\n" * 90, 0.02),
    "endless": (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_RESPONSE_BYTES + 1), 0.0),
    "another origin": (b"HTTP/1.1 302 Found\r\nLocation: http://localhost:1/metrics\r\n\r\n", 0.0),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n", 0.0),
    "an error of many words": (b"HTTP/1.1 500 " + b"word " * 5000 + b"\r\n\r\n", 0.0),
    "no metrics": (b"HTTP/1.1 200 OK\r\n\r\n<html>sk-secret1</html>", 0.0),
    "compressed": (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"vllm:x 1\n"), 0.0),
}


def test_no_page_however_bad_delays_a_run_or_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmload.prometheus.scrape.END_WAIT_S", START_WAIT_S)
    with ExitStack() as stack:
        ports = [stack.enter_context(dripped(content, pause_s)) for content, pause_s in PAGES.values()]
        good = stack.enter_context(dripped(b"HTTP/1.1 200 OK\r\n\r\nvllm:generation_tokens_total 50\n", 0.0))
        urls = [f"http://127.0.0.1:{port}/metrics" for port in (*ports, good)]
        scraper = EngineScraper(Monitor(engine_metrics_url=urls), RunFolder(tmp_path))
        begun_s = time.monotonic()
        scraper.begin()
        scraper.end()
        took_s = time.monotonic() - begun_s
        metrics, _ = scraper.summary(RunTotals())

    assert took_s < 2 * START_WAIT_S + 0.5
    assert metrics is not None
    assert metrics.samples == 2 * 3, "of the good one, and of two without metrics"
    assert metrics.failed_reads == 3 + 4 * 2, "three that never end, and four that fail at once"
    assert metrics.output_tokens is None, "not known of all"
    said = {url: [r.message for r in caplog.records if url in r.message] for url in urls}
    assert [len(lines) for lines in said.values()] == [2, 2, 2, *[1] * 6, 0], said
    assert max(len(record.message) for record in caplog.records) < 300


def test_a_total_is_known_only_from_before_the_first_request_to_after_the_last(tmp_path: Path) -> None:
    target = grown(tmp_path, "vllm:generation_tokens_total 50\n", "vllm:generation_tokens_total 80\n")
    assert engine_summary([target], RunTotals()).output_tokens == 30

    target.miss("end")

    assert engine_summary([target], RunTotals()).output_tokens is None


def test_names_of_gpus_without_end_do_not_fill_the_memory(tmp_path: Path) -> None:
    target = ScrapeTarget("http://gpu/metrics", GPU, samples_file(RunFolder(tmp_path), GPU_METRICS, GPU), by="gpu")
    for sample in range(3):
        target.record({f"{sample} {gpu}": {"power_w": 1.0} for gpu in range(MAX_PARTS // 2 + 1)})

    assert len(target.maxima("power_w")) == MAX_PARTS // 2 + 1
    assert target.samples == 3


def test_https_metrics_are_verified_as_the_scenario_says(tmp_path: Path) -> None:
    certificate, key = certificate_files()
    with served(certificate, key, b"vllm:num_requests_running 3\n") as port:
        monitor = Monitor(engine_metrics_url=[f"https://127.0.0.1:{port}/metrics"])
        trusts: dict[str, dict[str, Any]] = {
            "ca": {"ca_file": str(certificate)},
            "unverified": {"verify_tls": False},
            "default": {},
        }
        found: dict[str, EngineMetrics] = {}
        for name, trust in trusts.items():
            (tmp_path / name).mkdir()
            watch = EngineScraper(monitor, RunFolder(tmp_path / name), **trust)
            watch.begin()
            metrics, _ = watch.summary(RunTotals())
            assert metrics is not None
            found[name] = metrics

    assert [found[name].running_max for name in ("ca", "unverified", "default")] == [3, 3, None]
    assert found["default"].failed_reads == 1


def test_a_ca_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"engine\.ca_file: nowhere.pem cannot be used"):
        EngineScraper(
            Monitor(engine_metrics_url=["https://127.0.0.1/metrics"]), RunFolder(tmp_path), ca_file="nowhere.pem"
        )


@contextmanager
def dripped(content: bytes, pause_s: float) -> Iterator[int]:
    """The port of a server on loopback that sends these bytes to everybody, with a pause after each; none are none."""
    ended = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            step = 1 if pause_s else len(content)
            with contextlib.suppress(OSError):
                for at in range(0, len(content), step or 1):
                    self.wfile.write(content[at : at + step])
                    if ended.wait(pause_s):
                        return
            if not content:
                ended.wait(5)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        ended.set()
        server.shutdown()
        thread.join()


@contextmanager
def served(certificate: Path, key: Path, body: bytes) -> Iterator[int]:
    """The port of a server on loopback that answers every request with this body, over TLS."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign] # a client that does not trust it hangs up
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_wrong_address_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    scenario = Path(__file__).parents[2] / "scenarios" / "demo.toml"

    with pytest.raises(ConfigError, match=r"monitor\.engine_metrics_url.*write http://localhost:8000"):
        load_scenario(scenario, {"monitor.engine_metrics_url": "localhost:8000"})
    assert load_scenario(scenario).monitor.engine_metrics_url == []
