"""The tools, each with its best documented options, and where it writes what it has to say."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Final

from benchmarks.comparisons.client_cost.evalscope import Evalscope
from benchmarks.comparisons.client_cost.inference_perf import InferencePerf
from benchmarks.comparisons.client_cost.other_tools import Aiperf, GenaiBench, Guidellm
from benchmarks.comparisons.client_cost.sglang_bench import SglangBench
from benchmarks.comparisons.client_cost.vllm_bench import VllmBench
from benchmarks.comparisons.trust.faults import REQUESTS
from benchmarks.tools.cpu_engines import VLLM
from benchmarks.tools.llmload_client import Llmload
from benchmarks.tools.load_client import Command, LoadClient
from benchmarks.tools.peers import PEERS

LONG_WARM_UP_S: Final = 60.0
LONG_RATIO: Final = "0.9"
SEPARATE: Final = "its warm-up is a separate phase, which ends before the measurement begins"
NO_WARM_UP: Final = "it has no warm-up"


def _same(command: Command) -> Command:
    return command


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A load generator in the table."""

    title: str
    release: str
    client: LoadClient
    reports: tuple[str, ...]
    """Its report's files, as patterns in the run's folder, besides what it prints."""
    adapt: Callable[[Command], Command] = _same
    """What is changed in the command that measures cost: nothing that a user would see is left out here."""
    warm_up: LoadClient | Callable[[Command], Command] | None = None
    """How to request a warm-up that is longer than the run; None where `no_warm_up` says why it cannot."""
    no_warm_up: str = field(default=SEPARATE)


def _without(word: str) -> Callable[[Command], Command]:
    def adapt(command: Command) -> Command:
        return replace(command, arguments=tuple(each for each in command.arguments if each != word))

    return adapt


def _with(*words: str) -> Callable[[Command], Command]:
    def adapt(command: Command) -> Command:
        return replace(command, arguments=(*command.arguments, *words))

    return adapt


def _guidellm_warm_up(command: Command) -> Command:
    """Ask for a warm-up of more requests than the run has, which its profile allows."""
    words = [
        f"{word},warmup={REQUESTS + 12}" if word.startswith("kind=concurrent") else word for word in command.arguments
    ]
    return replace(command, arguments=tuple(words))


def _pinned(name: str) -> str:
    return PEERS[name].pins[0].partition("==")[2]


TOOLS: Final = {
    tool.client.name: tool
    for tool in (
        Tool(
            title="llmload",
            release=version("llmload"),
            client=Llmload(ramp_s=0.1),
            reports=("runs/*/summary.json",),
            warm_up=Llmload(ramp_s=0.1, warmup_s=LONG_WARM_UP_S),
        ),
        Tool(
            title="sglang-bench",
            release=_pinned("sglang-bench"),
            client=SglangBench(),
            reports=("result.jsonl",),
            adapt=_with("--output-details"),
        ),
        Tool(
            title="GuideLLM",
            release=_pinned("guidellm"),
            client=Guidellm(),
            reports=("report.json",),
            adapt=_without("--disable-console"),
            warm_up=_guidellm_warm_up,
        ),
        Tool(
            title="AIPerf",
            release=_pinned("aiperf"),
            client=Aiperf(),
            reports=("artifacts/profile_export_aiperf.json", "artifacts/profile_export_console*.txt"),
        ),
        Tool(
            title="genai-bench",
            release=_pinned("genai-bench"),
            client=GenaiBench(),
            reports=("experiments/run/D*_time_*.json", "logs/*.log"),
            warm_up=_with("--warmup-ratio", LONG_RATIO, "--cooldown-ratio", LONG_RATIO),
        ),
        Tool(
            title="vLLM bench serve",
            release=VLLM.partition("==")[2],
            client=VllmBench(),
            reports=("result.json",),
            adapt=_with("--save-detailed"),
        ),
        Tool(
            title="inference-perf",
            release=_pinned("inference-perf"),
            client=InferencePerf(),
            reports=("reports/*.json",),
            no_warm_up=NO_WARM_UP,
        ),
        Tool(
            title="evalscope perf",
            release=_pinned("evalscope"),
            client=Evalscope(),
            reports=("outputs/*/parallel_*/benchmark_summary.json", "outputs/*/performance_summary.txt"),
        ),
    )
}
