"""SGLang's Rust client, the baseline of the comparison."""

import json
from dataclasses import dataclass
from typing import Final

from benchmarks.tools.load_client import Command, Reported, Task
from benchmarks.tools.peers import PEERS, PeerClient, seconds_of_ms, write_tokenizer

# The wheel's launcher imports all of SGLang, PyTorch included; the client is one extension module.
LAUNCH: Final = """
import importlib.util, pathlib, sys
folder = pathlib.Path(importlib.util.find_spec("sglang").submodule_search_locations[0], "srt", "rust_extensions")
spec = importlib.util.spec_from_file_location("_bench", next(folder.glob("_bench*.so")))
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)
bench.run_argv(["sglang-bench", *sys.argv[1:]])
"""


@dataclass(frozen=True, slots=True)
class SglangBench(PeerClient):
    """`sglang-bench`, with the settings that cost it least: one worker thread, no tokenizing of answers."""

    name: str = "sglang-bench"

    def command(self, task: Task) -> Command:
        """Return how to run the task."""
        options = {
            "backend": "vllm-chat",
            "base-url": task.base_url,
            "model": task.model,
            "tokenizer": str(write_tokenizer()),
            "dataset-name": "random-ids",
            "random-input-len": task.work.prompt_words,
            "random-output-len": task.work.tokens,
            "random-range-ratio": 1,
            "num-prompts": task.requests,
            "max-concurrency": task.work.streams,
            "warmup-requests": 0,
            "worker-threads": 1,
            "output-file": "result.jsonl",
        }
        python = str(PEERS[self.name].python)
        arguments = [python, "-c", LAUNCH, *(f"--{name}={value}" for name, value in options.items())]
        return Command(arguments=(*arguments, "--disable-tqdm", "--disable-retokenize"))

    def reported(self, task: Task) -> Reported:
        """Return what its result line says."""
        result = json.loads((task.folder / "result.jsonl").read_text(encoding="utf-8"))
        return Reported(
            completed=result["completed"],
            failed=task.requests - result["completed"],
            output_tokens_per_s=result["output_throughput"],
            ttft_mean_s=result["mean_ttft_ms"] / 1000,
            ttft_p50_s=result["median_ttft_ms"] / 1000,
            ttft_p99_s=result["p99_ttft_ms"] / 1000,
            tpot_p50_s=result["median_tpot_ms"] / 1000,
            tpot_p99_s=result["p99_tpot_ms"] / 1000,
            itl_p50_s=result["median_itl_ms"] / 1000,
            itl_p99_s=result["p99_itl_ms"] / 1000,
            itl_max_s=seconds_of_ms(result.get("max_itl_ms")),
        )
