"""Load generators in Python with a command line: AIPerf, genai-bench, GuideLLM."""

import json
from dataclasses import dataclass
from typing import Any

from benchmarks.tools.load_client import Command, Reported, Task
from benchmarks.tools.peers import OFFLINE, PeerClient, long_options, seconds_of_ms, write_tokenizer


@dataclass(frozen=True, slots=True)
class Aiperf(PeerClient):
    """AIPerf with one worker and one record processor, since it has one core."""

    name: str = "aiperf"

    def command(self, task: Task) -> Command:
        """Return how to run the task."""
        work = task.work
        options: dict[str, object] = {
            "model": task.model,
            "url": task.base_url,
            "endpoint-type": "chat",
            "tokenizer": write_tokenizer(),
            "concurrency": work.streams,
            "request-count": task.requests,
            "isl": work.prompt_words,
            "osl": work.tokens,
            "num-dataset-entries": task.requests,
            "random-seed": 1,
            "workers-max": 1,
            "record-processors": 1,
            "ui": "none",
            "export-level": "summary",
            "artifact-dir": "artifacts",
        }
        flags = ("streaming", "use-server-token-count", "no-gpu-telemetry", "no-server-metrics", "no-auto-plot")
        return Command(arguments=(self.program, "profile", *long_options(options), *(f"--{flag}" for flag in flags)))

    def reported(self, task: Task) -> Reported:
        """Return what its export says; its `inter_token_latency` is a mean per request, so chunk gaps are read."""
        file = task.folder / "artifacts" / "profile_export_aiperf.json"
        export = json.loads(file.read_text(encoding="utf-8"))
        ttft, gaps = export["time_to_first_token"], export.get("inter_chunk_latency") or {}
        tpot = export.get("inter_token_latency") or {}
        return Reported(
            completed=round(export["request_count"]["avg"]),
            failed=round((export.get("error_request_count") or {"avg": 0})["avg"]),
            output_tokens_per_s=export["output_token_throughput"]["avg"],
            ttft_mean_s=ttft["avg"] / 1000,
            ttft_p50_s=ttft["p50"] / 1000,
            ttft_p99_s=ttft["p99"] / 1000,
            tpot_p50_s=seconds_of_ms(tpot.get("p50")),
            tpot_p99_s=seconds_of_ms(tpot.get("p99")),
            itl_p50_s=seconds_of_ms(gaps.get("p50")),
            itl_p99_s=seconds_of_ms(gaps.get("p99")),
            itl_max_s=seconds_of_ms(gaps.get("max")),
        )


@dataclass(frozen=True, slots=True)
class GenaiBench(PeerClient):
    """genai-bench in one process, on Locust like llmload."""

    name: str = "genai-bench"

    def command(self, task: Task) -> Command:
        """Return how to run the task."""
        work = task.work
        options: dict[str, object] = {
            "api-backend": "openai",
            "api-base": task.base_url,
            "api-key": "none",
            "task": "text-to-text",
            "api-model-name": task.model,
            "model": task.model,
            "model-tokenizer": write_tokenizer(),
            "num-concurrency": work.streams,
            "traffic-scenario": f"D({work.prompt_words},{work.tokens})",
            "max-time-per-run": 60,
            "max-requests-per-run": task.requests,
            "spawn-rate": work.streams,
            "metrics-refresh-interval": 5,
            "experiment-base-dir": "experiments",
            "experiment-folder-name": "run",
            "log-dir": "logs",
        }
        return Command(arguments=(self.program, "benchmark", *long_options(options)), environment=OFFLINE)

    def reported(self, task: Task) -> Reported:
        """Return what its result says; it records no gaps between chunks."""
        (file,) = (task.folder / "experiments" / "run").glob("D*_time_*.json")
        metrics = json.loads(file.read_text(encoding="utf-8"))["aggregated_metrics"]
        ttft, tpot = metrics["stats"]["ttft"], metrics["stats"]["tpot"]
        return Reported(
            completed=metrics["num_completed_requests"],
            failed=metrics["num_error_requests"],
            output_tokens_per_s=metrics["mean_output_throughput_tokens_per_s"],
            ttft_mean_s=ttft["mean"],
            ttft_p50_s=ttft["p50"],
            ttft_p99_s=ttft["p99"],
            tpot_p50_s=tpot["p50"],
            tpot_p99_s=tpot["p99"],
        )


@dataclass(frozen=True, slots=True)
class Guidellm(PeerClient):
    """GuideLLM with its own worker processes, all on the one core."""

    name: str = "guidellm"

    def command(self, task: Task) -> Command:
        """Return how to run the task."""
        work = task.work
        options: dict[str, object] = {
            "backend": f"kind=openai_http,target={task.base_url},model={task.model}",
            "profile": f"kind=concurrent,streams={work.streams}",
            "constraint": f"kind=max_requests,count={task.requests}",
            "tokenizer": f"kind=huggingface_auto,model={write_tokenizer()}",
            "data": f"kind=synthetic_text,prompt_tokens={work.prompt_words},output_tokens={work.tokens}",
            "output": "kind=json,path=report.json",
        }
        return Command(
            arguments=(self.program, "run", *long_options(options), "--disable-console"), environment=OFFLINE
        )

    def reported(self, task: Task) -> Reported:
        """Return what its report says; what it calls ITL is TPOT, a mean of each request."""
        report = json.loads((task.folder / "report.json").read_text(encoding="utf-8"))
        metrics: dict[str, Any] = report["benchmarks"][0]["metrics"]
        ttft, totals = metrics["time_to_first_token_ms"]["successful"], metrics["request_totals"]
        tpot = metrics["inter_token_latency_ms"]["successful"]
        return Reported(
            completed=totals["successful"],
            failed=totals["errored"],
            output_tokens_per_s=metrics["output_tokens_per_second"]["successful"]["mean"],
            ttft_mean_s=ttft["mean"] / 1000,
            ttft_p50_s=ttft["percentiles"]["p50"] / 1000,
            ttft_p99_s=ttft["percentiles"]["p99"] / 1000,
            tpot_p50_s=tpot["percentiles"]["p50"] / 1000,
            tpot_p99_s=tpot["percentiles"]["p99"] / 1000,
        )
