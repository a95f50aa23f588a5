"""`evalscope perf`, ModelScope's load generator."""

import json
from dataclasses import dataclass

from benchmarks.tools.load_client import Command, Reported, Task
from benchmarks.tools.peers import OFFLINE, PeerClient, long_options, seconds_of_ms, write_tokenizer


@dataclass(frozen=True, slots=True)
class Evalscope(PeerClient):
    """evalscope in one process, without the request by which it tests the connection."""

    name: str = "evalscope"

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
        flags = ("--stream", "--no-test-connection", "--no-timestamp")
        return Command(arguments=(self.program, "perf", *long_options(options), *flags), environment=OFFLINE)

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
            ttft_mean_s=seconds_of_ms(summary.get("Avg TTFT (ms)")),
            ttft_p50_s=seconds_of_ms(p50.get("TTFT (ms)")),
            ttft_p99_s=seconds_of_ms(p99.get("TTFT (ms)")),
            tpot_p50_s=seconds_of_ms(p50.get("TPOT (ms)")),
            tpot_p99_s=seconds_of_ms(p99.get("TPOT (ms)")),
            itl_p50_s=seconds_of_ms(p50.get("ITL (ms)")),
            itl_p99_s=seconds_of_ms(p99.get("ITL (ms)")),
        )
