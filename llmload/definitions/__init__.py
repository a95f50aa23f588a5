"""
A run's records by the definitions of other load generators, in their words and layout: docs/definitions.md.

    sample      which of a run folder's requests are taken, and what is left out
    statistics  means and percentiles as the tools compute them
    figures     a figure, and the sections that a tool prints
    serving     `vllm bench serve` and `sglang.benchmark.serving`
    aiperf      AIPerf
    guidellm    GuideLLM
    genai_bench genai-bench
    catalogue   all of them by name, each with its source
    printing    figures on a terminal, as the tool lays them out
"""
