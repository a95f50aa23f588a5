"""inference-perf of the Kubernetes project, from a file of settings."""

import json
from dataclasses import dataclass
from typing import Any

from benchmarks.tools.load_client import Command, Reported, Task
from benchmarks.tools.peers import OFFLINE, PeerClient, write_tokenizer


@dataclass(frozen=True, slots=True)
class InferencePerf(PeerClient):
    """inference-perf with one worker process; its random prompts go to `/v1/completions`, which alone they support."""

    name: str = "inference-perf"

    def command(self, task: Task) -> Command:
        """Write its settings, as JSON, which is YAML, and return how to run the task."""
        work = task.work
        settings = {
            "api": {"type": "completion", "streaming": True},
            "data": {
                "type": "random",
                "input_distribution": _fixed(work.prompt_words, task.requests),
                "output_distribution": _fixed(work.tokens, task.requests),
            },
            "load": {
                "type": "concurrent",
                "num_workers": 1,
                "stages": [{"num_requests": task.requests, "concurrency_level": work.streams}],
            },
            "server": {"type": "vllm", "model_name": task.model, "base_url": task.base_url, "ignore_eos": True},
            "tokenizer": {"pretrained_model_name_or_path": str(write_tokenizer())},
            "report": {"request_lifecycle": {"summary": True, "per_stage": True, "per_request": False}},
            "storage": {"local_storage": {"path": "reports"}},
        }
        (task.folder / "settings.yml").write_text(json.dumps(settings, indent=2), encoding="utf-8")
        return Command(arguments=(self.program, "-c", "settings.yml"), environment=OFFLINE)

    def reported(self, task: Task) -> Reported:
        """Return what its summary says."""
        file = task.folder / "reports" / "summary_lifecycle_metrics.json"
        report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        successes = report["successes"]
        ttft, tpot, itl = (
            successes["latency"][name] or {}
            for name in ("time_to_first_token", "time_per_output_token", "inter_token_latency")
        )
        return Reported(
            completed=successes["count"],
            failed=report["failures"]["count"],
            output_tokens_per_s=successes["throughput"]["output_tokens_per_sec"],
            ttft_mean_s=ttft.get("mean"),
            ttft_p50_s=ttft.get("median"),
            ttft_p99_s=ttft.get("p99"),
            tpot_p50_s=tpot.get("median"),
            tpot_p99_s=tpot.get("p99"),
            itl_p50_s=itl.get("median"),
            itl_p99_s=itl.get("p99"),
            itl_max_s=itl.get("max"),
        )


def _fixed(count: int, total: int) -> dict[str, object]:
    return {"type": "fixed", "min": count, "max": count, "mean": count, "std_dev": 0, "total_count": total}
