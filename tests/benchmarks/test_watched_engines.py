"""The benchmark says whether engine and client counted the same, and of an engine without metrics that it has none."""

from benchmarks.trials.watched_engines import judgement, measured, row
from llmload.simulator import SimulationSettings, spawn


def test_an_engine_that_counts_every_token_passes_and_another_fails() -> None:
    with spawn(SimulationSettings(model="tiny", ttft_s=0.02, itl_s=0.002, output_tokens=8)) as engine:
        summary = measured("vllm", "tiny", engine.url, users=2, requests=6, tokens=16)

    assert judgement("vllm", summary) == ("PASS vllm: counts agree to 0 tokens", True)
    assert "| 6 of 6 |" in row("vllm", summary)
    assert "| 48 / 48 |" in row("vllm", summary)
    said = summary["engine_metrics"]
    other = summary | {"engine_metrics": said | {"output_tokens": 50.0, "output_tokens_gap": 2.0}}
    assert judgement("vllm", other) == ("FAIL vllm: counts agree to 2 tokens", False)
    silent = summary | {"engine_metrics": said | {"samples": 0, "failed_reads": 9, "output_tokens_gap": None}}
    assert judgement("transformers", silent)[1]
    assert "it serves no metrics" in row("transformers", silent)
