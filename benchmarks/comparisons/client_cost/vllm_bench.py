"""`vllm bench serve`, from the environment that `benchmarks.tools.cpu_engines` builds for vLLM on a CPU."""

import json
from dataclasses import dataclass
from typing import Final

from benchmarks import ROOT
from benchmarks.tools.load_client import Command, Reported, Task
from benchmarks.tools.peers import OFFLINE, write_tokenizer

PYTHON: Final = ROOT / ".engines" / "vllm" / "bin" / "python"
# The CPU wheel's own command line imports what only a GPU build has; the benchmark itself does not need it.
LAUNCH: Final = """
import sys
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args(sys.argv[1:]))
"""


@dataclass(frozen=True, slots=True)
class VllmBench:
    """vLLM's load generator, without warm-up and without the request that it tries first."""

    name: str = "vllm"

    def missing(self) -> str | None:
        """Return what has to be done before it can run; None if nothing."""
        return None if PYTHON.is_file() else "not installed: python -m benchmarks.tools.cpu_engines install vllm"

    def command(self, task: Task) -> Command:
        """Return how to run the task."""
        options = {
            "backend": "openai-chat",
            "endpoint": "/v1/chat/completions",
            "base-url": task.base_url,
            "model": task.model,
            "tokenizer": write_tokenizer(),
            "dataset-name": "random",
            "random-input-len": task.work.prompt_words,
            "random-output-len": task.work.tokens,
            "random-range-ratio": 0,
            "num-prompts": task.requests,
            "max-concurrency": task.work.streams,
            "num-warmups": 0,
            "ready-check-timeout-sec": 0,
            "percentile-metrics": "ttft,tpot,itl,e2el",
            "result-filename": "result.json",
        }
        words = [f"--{name}={value}" for name, value in options.items()]
        return Command(
            arguments=(str(PYTHON), "-c", LAUNCH, *words, "--ignore-eos", "--save-result", "--disable-tqdm"),
            environment={**OFFLINE, "VLLM_TARGET_DEVICE": "cpu", "VLLM_NO_USAGE_STATS": "1"},
        )

    def reported(self, task: Task) -> Reported:
        """Return what its result says."""
        result = json.loads((task.folder / "result.json").read_text(encoding="utf-8"))
        return Reported(
            completed=result["completed"],
            failed=result["failed"],
            output_tokens_per_s=result["output_throughput"],
            ttft_mean_s=result["mean_ttft_ms"] / 1000,
            ttft_p50_s=result["median_ttft_ms"] / 1000,
            ttft_p99_s=result["p99_ttft_ms"] / 1000,
            tpot_p50_s=result["median_tpot_ms"] / 1000,
            tpot_p99_s=result["p99_tpot_ms"] / 1000,
            itl_p50_s=result["median_itl_ms"] / 1000,
            itl_p99_s=result["p99_itl_ms"] / 1000,
        )
