"""What an engine loads beside the language model, and what it leaves on the host."""

from dataclasses import replace
from math import ceil

from llmload.errors import ConfigError
from llmload.sizing.architecture import Attention, CompressedAttention, Dense, Layer, ModelSpec
from llmload.sizing.cards import Gpu
from llmload.sizing.engines import HOPPER_AND_LATER, USUAL_LORA_RANK, Engine
from llmload.sizing.gguf_mix import MIXES
from llmload.sizing.overhead import MXFP4_EXPERT_STEP, Estimate, llama_cpp_buffer_bytes
from llmload.sizing.parallelism import ONE_GPU, Parallelism, rank_counts, rank_model
from llmload.sizing.weights import FROM_FILE, WEIGHT_FORMATS, format_of, weights_bytes
from llmload.units import GIB

_EAGLE3_VOCABULARY = 32_000  # its own head, over the tokens that are drafted most
# Families whose checkpoints have one.
_WITH_MTP = ("deepseek_v3", "deepseek_v4", "ernie4_5_moe", "glm4_moe", "glm_moe", "mimo", "qwen3_5", "qwen3_next")
_EXTRA_TOKENS = 256  # vLLM's lora_extra_vocab_size, of versions up to 0.11


def drafter_layer(model: ModelSpec, engine: Engine) -> Layer | None:
    """
    Return the layer that drafts, None without a drafter; it keeps keys and values as the model's own layers do.

    EAGLE drafters have one dense layer of the model's widths, multi-token prediction one more of its last layers.
    Raises ConfigError where the drafter's widths do not follow from the model's.
    """
    method = engine.options.drafter
    if method is None:
        return None
    last = model.decoder[-1]
    if method == "mtp" and not model.model_type.startswith(_WITH_MTP):
        raise ConfigError(f"{model.name} ({model.model_type}) has no layer for multi-token prediction that is known")
    widths_follow = isinstance(last.mixer, Attention) and isinstance(last.feed_forward, Dense)
    if method != "mtp" and not widths_follow:
        raise ConfigError(f"the widths of an {method} drafter for {model.name} do not follow from its config")
    if isinstance(last.mixer, CompressedAttention):  # DeepSeek-V4's has a window and nothing behind it
        return replace(last, mixer=replace(last.mixer, ratio=0, index_heads=0, index_head_dim=0))
    return last


def with_drafter(part: ModelSpec, layer: Layer | None, parallelism: Parallelism) -> ModelSpec:
    """Return a rank's part of a model with the layer that drafts behind its own, for the KV cache."""
    if layer is None:
        return part
    alone = rank_model(replace(part, decoder=(layer,)), Parallelism(tensor=parallelism.tensor))
    return replace(part, decoder=(*part.decoder, *alone.decoder))


def drafter_bytes(
    model: ModelSpec, engine: Engine, parallelism: Parallelism = ONE_GPU, weight_format: str = "bf16"
) -> Estimate:
    """
    Return the bytes of a drafter's weights on one rank; embedding and head are the model's.

    An EAGLE drafter is 16 bits wide, a layer for multi-token prediction as the model or 16 bits.

    Each puts hidden states together by a projection: EAGLE and multi-token prediction two of them, EAGLE-3 three; the
    attention of EAGLE-3 sees two, and its head is its own. llama.cpp drafts in a context with its own compute buffer.
    """
    layer = drafter_layer(model, engine)
    if layer is None:
        return Estimate(0.0, 0.0, 0.0)
    weights = _drafter_weights(model, engine, layer, parallelism, weight_format)
    alone = replace(model, decoder=(layer,))
    return weights + llama_cpp_buffer_bytes(alone, engine) if engine.name == "llama.cpp" else weights


def _drafter_weights(
    model: ModelSpec, engine: Engine, layer: Layer, parallelism: Parallelism, weight_format: str
) -> Estimate:
    hidden = model.hidden_size
    counts = rank_counts(replace(model, decoder=(layer,), encoder=()), Parallelism(tensor=parallelism.tensor))
    elements = counts.layers + 2 * hidden * hidden
    if engine.options.drafter == "eagle3" and isinstance(layer.mixer, Attention):
        mixer = layer.mixer
        seen = hidden * (mixer.heads + 2 * mixer.kv_heads) * mixer.head_dim
        elements += hidden * hidden + (seen + _EAGLE3_VOCABULARY * hidden) // parallelism.tensor
    narrow = _bytes_of_element(model, weight_format) if engine.options.drafter == "mtp" else 2.0
    table = 2.0 * model.vocab_size * hidden / parallelism.tensor
    return Estimate(0.95 * narrow * elements, narrow * elements, 2.0 * elements + table)


def _bytes_of_element(model: ModelSpec, weight_format: str) -> float:
    """Bytes of a weight in the model's format: at most two."""
    if weight_format.upper() in MIXES:
        counts = rank_counts(model, ONE_GPU)
        return weights_bytes(counts, format_of(model, weight_format)) / counts.total
    form = WEIGHT_FORMATS.get(weight_format)
    return min(16.0, form.bits) / 8 if form else 2.0


_MOST_BESIDE_TOWER_GIB = 0.75  # 0.1 to 0.6 were seen


def tower_bytes(model: ModelSpec, engine: Engine, parallelism: Parallelism, stage: int, weight_format: str) -> Estimate:
    """
    Return the bytes of a tower for images on one rank of a stage: the first has it, divided among its ranks.

    vLLM keeps what it encodes, on every rank, up to the tokens of a step; the low estimate leaves that out, since an
    option turns images off. By the high estimate each rank has all of the tower, and what engines were seen to take
    beside. llama.cpp loads it only with an option. Of weight files, it is among the weights. Source: vLLM
    v1/core/encoder_cache_manager.py.
    """
    if stage or not model.image_tower:
        return Estimate(0.0, 0.0, 0.0)
    width = 4.0 if weight_format == "fp32" else 2.0
    kept = (
        width * engine.max_num_batched_tokens * model.hidden_size * model.image_states if engine.name == "vllm" else 0
    )
    if weight_format == FROM_FILE:
        return Estimate(0.0, kept, kept)
    whole = width * model.image_tower
    shared = 0.0 if engine.name == "llama.cpp" else whole / parallelism.tensor
    return Estimate(shared, shared + kept, whole + max(kept, _MOST_BESIDE_TOWER_GIB * GIB))


def lora_bytes(model: ModelSpec, engine: Engine, parallelism: Parallelism = ONE_GPU) -> Estimate:
    """
    Return the bytes that vLLM or SGLang reserves on one rank for its LoRA slots, whether they are used or not.

    A slot has two matrices of the rank's width for each projection; the first of those that are split by columns, and
    the second of those that are split by rows, are whole on every rank. vLLM has them for embedding and head too.
    Raises ConfigError for experts and others. Sources: vLLM lora/layers, SGLang lora/mem_pool.py.
    """
    slots, rank = engine.options.max_loras or 0, engine.options.max_lora_rank or USUAL_LORA_RANK
    if not slots:
        return Estimate(0.0, 0.0, 0.0)
    tensor, hidden = parallelism.tensor, model.hidden_size
    widths = 0
    for layer in model.decoder:
        mixer, block = layer.mixer, layer.feed_forward
        if not (isinstance(mixer, Attention) and isinstance(block, Dense)):
            raise ConfigError(f"LoRA slots are modelled for dense models with attention, and {model.name} is another")
        query, keys = mixer.heads * mixer.head_dim, 2 * mixer.kv_heads * mixer.head_dim
        inner, into = block.intermediate_size, 1 + block.gated
        widths += 3 * hidden + (query + keys) // tensor  # queries, keys and values
        widths += query // tensor + hidden
        widths += into * (hidden + inner // tensor) + inner // tensor + hidden
    if engine.name == "sglang":
        return Estimate.around(2.0 * slots * rank * widths, 0.1)
    tables = 2 * (model.vocab_size // tensor + hidden)  # embedding and head
    extra = 2 * _EXTRA_TOKENS * hidden * (1 + slots) if engine.version < (0, 12) else 0
    best = 2.0 * (slots * rank * (widths + tables) + extra)
    return Estimate(2.0 * slots * rank * widths, best, 1.1 * best)


def layers_on_gpu(model: ModelSpec, engine: Engine) -> ModelSpec:
    """Return the model with the layers that llama.cpp keeps on the GPUs: the last ones; ConfigError for none."""
    layers = engine.options.gpu_layers
    if layers is None or layers >= len(model.decoder):
        return model
    if not layers:
        raise ConfigError("--n-gpu-layers 0 leaves no layer to the GPU: there is nothing to fit")
    return replace(model, decoder=model.decoder[-layers:])


_ONE_MEMORY = ("DGX-Spark", "Jetson", "MI300A")


def shares_memory(gpu: Gpu) -> bool:
    """Return whether a GPU's memory is its host's, so that what an engine leaves to the host is in it too."""
    return gpu.name.startswith(_ONE_MEMORY)


def llama_cpp_fraction(
    model: ModelSpec, engine: Engine, parallelism: Parallelism, stage: int, *, one_memory: bool = False
) -> float:
    """
    Return the fraction of the parameters in one GPU's memory; the embedding stays on the host, unless it is the head.

    With one memory for both, nothing is left out.
    """
    if one_memory and parallelism.gpus == 1:
        return 1.0
    counts = rank_counts(layers_on_gpu(model, engine), parallelism, stage)
    layers = engine.options.gpu_layers
    last = stage == parallelism.pipeline - 1
    output = counts.embed if model.tied_embeddings and last else counts.lm_head
    if layers is not None and layers <= len(model.decoder):
        output = 0
    return (counts.layers + output) / rank_counts(model, ONE_GPU).total


_MARLIN_STEPS = (128, 256)  # of the experts' width, of the hidden size


def repacked_bytes(model: ModelSpec, gpu: Gpu, engine: Engine, parallelism: Parallelism, stage: int) -> Estimate:
    """
    Return the bytes that vLLM's Marlin kernels add to MXFP4 experts, which they pad to their own steps.

    Cards without kernels for 4-bit floats have them; on Hopper it depends on what is installed (gpt-oss-120b took
    64.4 GiB there, and 66.0).
    """
    step = _MARLIN_STEPS[0]
    narrow = rank_counts(model, parallelism, stage, step).experts
    stored = rank_counts(model, parallelism, stage, MXFP4_EXPERT_STEP).experts
    padded = narrow * ceil(model.hidden_size / _MARLIN_STEPS[1]) * _MARLIN_STEPS[1] / model.hidden_size
    added = max(0.0, (padded - stored) * WEIGHT_FORMATS["mxfp4"].bits / 8)
    if engine.name != "vllm":
        return Estimate(0.0, 0.0, 0.0)
    return Estimate(0.0, 0.0 if gpu.name.startswith(HOPPER_AND_LATER) else added, added)


def offloaded_bytes(engine: Engine, weights: Estimate) -> Estimate:
    """Return the bytes of a rank's weights that stay on the host, at most the weights; whole matrices are moved."""
    wanted = engine.options.cpu_offload_gib or 0.0
    if not wanted:
        return Estimate(0.0, 0.0, 0.0)
    moved = min(wanted * GIB, weights.best)
    return Estimate(max(0.0, 0.98 * moved - 0.25 * GIB), moved, moved + 0.25 * GIB)
