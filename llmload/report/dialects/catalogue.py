"""The dialects by name, each with the release that it was read from and what differs from llmload's own words."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from llmload.report.dialects.aiperf import aiperf
from llmload.report.dialects.figures import Section
from llmload.report.dialects.genai_bench import genai_bench
from llmload.report.dialects.guidellm import guidellm
from llmload.report.dialects.sample import Sample
from llmload.report.dialects.serving import sglang, vllm


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """A tool's definitions: computed by `sections`, found in `source`, told in `definitions`."""

    tool: str
    release: str
    source: str
    definitions: tuple[str, ...]
    sections: Callable[[Sample], list[Section]]
    layout: Literal["lines", "matrix", "columns"]


DIALECTS: Final = {
    "vllm": Dialect(
        tool="vllm bench serve",
        release="vLLM 0.32.0",
        source="vllm/benchmarks/serve.py: calculate_metrics; lib/endpoint_request_func.py: "
        "async_request_openai_chat_completions",
        definitions=(
            "TTFT ends at the first chunk with choices, be it an empty role; latency at the last, be it the finish",
            "ITL: every gap between chunks with choices, those to the role and to the finish (near 0) among them",
            "TPOT = (latency - TTFT) / (output tokens - 1); percentiles interpolate linearly",
            "throughputs: over the first request's start to the last answer's end; peaks count chunks in whole seconds",
        ),
        sections=vllm,
        layout="lines",
    ),
    "sglang": Dialect(
        tool="sglang.benchmark.serving and sglang-bench",
        release="SGLang 0.5.23",
        source="sglang/benchmark/serving.py: calculate_metrics, async_request_openai_chat_completions",
        definitions=(
            "TTFT ends at the first text; latency at the stream's last line",
            "ITL: every gap between chunks with text; TPOT = (latency - TTFT) / (output tokens - 1)",
            "percentiles interpolate linearly; throughputs: over the first request's start to the last answer's end",
            "input tokens are its own tokenizer's, without the chat template: here they are the engine's",
        ),
        sections=sglang,
        layout="lines",
    ),
    "aiperf": Dialect(
        tool="aiperf profile",
        release="AIPerf 0.13.0",
        source="aiperf/metrics/types/*.py; metrics/metric_dicts.py: metric_result_from_array",
        definitions=(
            "TTFT ends at the first text, request latency at the last text: not at the end of the answer",
            "Inter Token Latency is a figure a request, (request latency - TTFT) / (output tokens - 1): others' TPOT",
            "Output Token Throughput Per User = 1 / Inter Token Latency of each request",
            "percentiles interpolate linearly; throughputs: over the first start to the last text",
            "tokens are its own tokenizer's unless --use-server-token-count: here they are the engine's",
        ),
        sections=aiperf,
        layout="matrix",
    ),
    "guidellm": Dialect(
        tool="guidellm run",
        release="GuideLLM 0.8.1",
        source="guidellm/schemas/base/request_stats.py, statistics.py; benchmark/schemas/metrics.py: GenerativeMetrics",
        definitions=(
            "the start is the first byte written: opening a connection does not count",
            "ITL = (last - first text) / (output tokens - 1) of a request, weighted by output tokens - 1",
            "TPOT = (last text - start) / output tokens: the first token is included; weighted by output tokens",
            "percentiles are by nearest rank; rates: over the first start to the last end, failures count as requests",
        ),
        sections=guidellm,
        layout="columns",
    ),
    "genai-bench": Dialect(
        tool="genai-bench benchmark",
        release="genai-bench 0.0.5",
        source="genai_bench/metrics/request_metrics_collector.py, aggregated_metrics_collector.py; user/openai_user.py",
        definitions=(
            "TTFT ends at the first text, e2e latency with the usage chunk; TPOT = (e2e - TTFT) / (output tokens - 1)",
            "output_throughput of a request = (output tokens - 1) / (e2e - TTFT); input_throughput = input / TTFT",
            "an answer shorter than 1 ms after its first text has no TPOT; percentiles interpolate linearly",
            "its run_duration goes on until its loop next looks, here to the last answer; its error_rate is always 0",
        ),
        sections=genai_bench,
        layout="matrix",
    ),
}
