"""The command that starts an engine as a fit was computed."""

import shlex

from llmload.sizing.catalogue import hub_id
from llmload.sizing.engines import FLAGS, Engine
from llmload.sizing.fit import Fit


def engine_flags(found: Fit) -> list[str]:
    """Return the words of the command that starts the engine as computed, the model by its hub id where it has one."""
    plan = found.deployment
    model = hub_id(plan.model.name)
    engine, cut = plan.engine, plan.parallelism
    flags = FLAGS[engine.name]
    if engine.name == "llama.cpp":
        slots = plan.users or engine.max_num_seqs
        line = ["llama-server", "--hf-repo", model, "--ctx-size", str(slots * plan.context_tokens)]
        line += [flags["max_num_seqs"], str(slots), flags["max_num_batched_tokens"], str(engine.max_num_batched_tokens)]
        kind = engine.options.cache_type
        line += ["--cache-type-k", kind, "--cache-type-v", kind] if kind else []
        line += [flags["kv_unified"]] if engine.options.kv_unified else []
        drafts = [flags["drafter"], "draft-mtp", flags["draft_tokens"], str(engine.draft_tokens)]
        return line + (drafts if engine.draft_tokens else []) + _said(engine, "gpu_layers")
    if engine.name == "sglang":
        line = ["python", "-m", "sglang.launch_server", "--model-path", model]
        line += ["--context-length", str(plan.context_tokens), flags["utilization"], f"{engine.utilization:g}"]
        line += ["--enable-lora"] if engine.options.max_loras else []
        line += _said(engine, "max_num_seqs", "max_num_batched_tokens", "max_loras", "max_lora_rank", "cpu_offload_gib")
        names = ("--tp-size", "--pp-size", "--dp-size")
        tensor = cut.tensor * cut.data  # SGLang's TP counts the groups of DP attention too
        line += ["--enable-dp-attention"] if cut.data > 1 else []
        fp8 = "fp8_e5m2"
    else:
        line = ["vllm", "serve", model, "--max-model-len", str(plan.context_tokens)]
        line += [flags["utilization"], f"{engine.utilization:g}"]
        line += [flags["max_num_seqs"], str(engine.max_num_seqs)]
        line += [flags["max_num_batched_tokens"], str(engine.max_num_batched_tokens)]
        line += ["--enable-lora"] if engine.options.max_loras else []
        line += _said(engine, "max_loras", "max_lora_rank", "cpu_offload_gib")
        names = ("--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size")
        tensor = cut.tensor
        line += ["--decode-context-parallel-size", str(cut.context)] if cut.context > 1 else []
        fp8 = "fp8"
    line += [flags["enforce_eager"]] if engine.options.enforce_eager else []
    # Copies of a model with DP attention are separate engines: their experts are not shared.
    for name, value in zip(names, (tensor, cut.pipeline, cut.data if cut.data > 1 else plan.copies), strict=True):
        line += [name, str(value)] if value > 1 else []
    if cut.expert:
        line += ["--enable-expert-parallel"] if engine.name == "vllm" else ["--ep-size", str(tensor)]
    return line + (["--kv-cache-dtype", fp8] if plan.kv_dtype == "fp8" else [])


def _said(engine: Engine, *names: str) -> list[str]:
    """The flags of options that were given and have a value."""
    given = [(FLAGS[engine.name][name], getattr(engine.options, name)) for name in names]
    return [word for flag, value in given if value is not None for word in (flag, f"{value:g}")]


def command_line(words: list[str]) -> str:
    """Return words as they are typed in a shell."""
    return shlex.join(words)
