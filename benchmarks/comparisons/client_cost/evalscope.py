"""`evalscope perf`, ModelScope's load generator."""

import json
from dataclasses import dataclass

from benchmarks.tools.load_client import Command, Reported, Task
from benchmarks.tools.peers import PEERS, write_tokenizer


@dataclass(frozen=True, slots=True)
class Evalscope:
    """evalscope in one process, without the request by which it tests the connection."""

    name: str = "evalscope"

    def missing(self) -> str | None:
        """Return what has to be done before it can run; None if nothing."""
        return PEERS[self.name].missing()

    def command(self, task: Task) -> Command:
        """Return how to run the task."""
        work = task.work
        options: dict[str, object] = {
            "model": task.model,
            "url": f"{task.base_url}/v1/chat/completions",
            "api": "openai",
            "tokenizer-path": write_tokenizer(),
            "number": task.requests,
            "parallel": work.streams,
            "dataset": "random",
            "min-prompt-length": work.prompt_words,
            "max-prompt-length": work.prompt_words,
            "min-tokens": work.tokens,
            "max-tokens": work.tokens,
            "outputs-dir": "outputs",
            "seed": 1,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        program = PEERS[self.name].program(self.name)
        return Command(
            arguments=(program, "perf", *words, "--stream", "--no-test-connection", "--no-timestamp"),
            environment={"HF_HUB_OFFLINE": "1"},
        )

    def reported(self, task: Task) -> Reported:
        """Return what its summary and its table of percentiles say."""
        folder = task.folder / "outputs" / task.model / f"parallel_{task.work.streams}_number_{task.requests}"
        summary = json.loads((folder / "benchmark_summary.json").read_text(encoding="utf-8"))
        rows = json.loads((folder / "benchmark_percentile.json").read_text(encoding="utf-8"))
        p50, p99 = ({row["Percentiles"]: row for row in rows}.get(name, {}) for name in ("50%", "99%"))
        return Reported(
            completed=summary["Success Requests"],
            failed=summary["Failed Requests"],
            output_tokens_per_s=summary["Output Throughput (tok/s)"],
            ttft_mean_s=_seconds(summary.get("Avg TTFT (ms)")),
            ttft_p50_s=_seconds(p50.get("TTFT (ms)")),
            ttft_p99_s=_seconds(p99.get("TTFT (ms)")),
            tpot_p50_s=_seconds(p50.get("TPOT (ms)")),
            tpot_p99_s=_seconds(p99.get("TPOT (ms)")),
            itl_p50_s=_seconds(p50.get("ITL (ms)")),
            itl_p99_s=_seconds(p99.get("ITL (ms)")),
        )


def _seconds(value_ms: float | None) -> float | None:
    return None if value_ms is None else value_ms / 1000
