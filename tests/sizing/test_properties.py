"""What is true of every model: more context needs no less memory, more ranks have no more each, and the like."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from llmload.sizing.architecture import ModelSpec
from llmload.sizing.block_pool import block_pool
from llmload.sizing.cards import Gpu, gpus
from llmload.sizing.catalogue import load_model, model_entries
from llmload.sizing.engines import EngineOptions, engine_for
from llmload.sizing.fit import Deployment, fit
from llmload.sizing.kv_cache import KvCache
from llmload.sizing.parallelism import Parallelism, parallel_problems, rank_counts
from llmload.sizing.parameters import count_parameters
from llmload.sizing.speed import decode_bound_tokens_per_s, decode_step_bytes
from llmload.sizing.weights import WEIGHT_FORMATS, weights_bytes

MODELS = [load_model(name) for name in [entry["name"] for entry in model_entries()]]
DECODERS = [model for model in MODELS if not any(layer.cross for layer in model.decoder)]
models, decoders, cards = st.sampled_from(MODELS), st.sampled_from(DECODERS), st.sampled_from(gpus())
SHARES = st.floats(0.3, 0.9)
tokens = st.integers(1, 300_000)
tensors = st.sampled_from([1, 2, 4, 8, 16, 32])


@given(model=models, context=tokens, more=tokens)
def test_more_context_never_needs_less_memory(model: ModelSpec, context: int, more: int) -> None:
    cache = KvCache(model=model)

    assert cache.sequence_bytes(context + more) >= cache.sequence_bytes(context)
    if model in DECODERS:
        pool = block_pool(cache)
        assert pool.blocks_per_request(context + more, 2048) >= pool.blocks_per_request(context, 2048)


@given(model=decoders, tensor=tensors)
def test_the_blocks_of_a_request_are_enough_for_its_sequence(model: ModelSpec, tensor: int) -> None:
    if not parallel_problems(model, Parallelism(tensor=tensor)):
        cache = KvCache(model=model, tensor_parallel=tensor)
        pool = block_pool(cache)
        assert pool.blocks_per_request(4096, 2048) * pool.block_bytes >= cache.sequence_bytes(4096)


@given(model=decoders, tensor=tensors, expert=st.booleans())
def test_more_tensor_ranks_never_have_more_each_and_together_have_all(
    model: ModelSpec, tensor: int, expert: bool
) -> None:
    narrow, wide = Parallelism(tensor=tensor, expert=expert), Parallelism(tensor=2 * tensor, expert=expert)
    if parallel_problems(model, narrow) or parallel_problems(model, wide):
        return

    assert rank_counts(model, wide).total <= rank_counts(model, narrow).total
    assert tensor * rank_counts(model, narrow).total >= count_parameters(model).total


@given(model=decoders, stages=st.integers(1, 16))
def test_pipeline_stages_together_have_all(model: ModelSpec, stages: int) -> None:
    cut = Parallelism(pipeline=stages)
    if parallel_problems(model, cut):
        return
    whole = sum(rank_counts(model, cut, stage).total for stage in range(stages))
    copied = rank_counts(model, cut, stages - 1).embed if stages > 1 else 0  # tied: the last stage has its own
    outside = sum(weight.elements for weight in model.extra if weight.part != "embed")  # each stage has it

    assert whole == count_parameters(model).total + copied + (stages - 1) * outside


@given(model=models)
def test_narrower_formats_are_never_larger(model: ModelSpec) -> None:
    sizes = {name: weights_bytes(count_parameters(model), form) for name, form in WEIGHT_FORMATS.items()}

    assert sizes["fp32"] == 2 * sizes["bf16"]
    assert sizes["bf16"] > sizes["fp8"] == sizes["int8"] > sizes["nf4"] >= sizes["w4a16"]
    ggml = [sizes[name] for name in ("bf16", "q8_0", "q6_K", "q5_K", "q4_K", "q3_K", "q2_K")]
    assert ggml == sorted(ggml, reverse=True)


@settings(deadline=None)
@given(
    model=decoders, gpu=cards, context=st.integers(256, 32_768), more=st.integers(1, 32_768), share=st.floats(0.3, 0.9)
)
def test_a_longer_context_or_a_lower_utilization_never_serves_more(
    model: ModelSpec, gpu: Gpu, context: int, more: int, share: float
) -> None:
    plan = Deployment(
        model=model, gpu=gpu, engine=engine_for(gpu, options=EngineOptions(utilization=share)), context_tokens=context
    )
    found = fit(plan)
    longer = fit(replace(plan, context_tokens=context + more))
    larger = fit(replace(plan, engine=replace(plan.engine, utilization=share + 0.1)))

    assert found.concurrency.low <= found.concurrency.best <= found.concurrency.high
    assert longer.concurrency.best <= found.concurrency.best
    assert larger.concurrency.best >= found.concurrency.best
    assert larger.max_context_tokens >= found.max_context_tokens


@given(model=models, gpu=cards, batch=st.integers(1, 512), context=st.integers(0, 8192))
def test_a_larger_batch_never_reads_less_and_never_is_slower_in_all(
    model: ModelSpec, gpu: Gpu, batch: int, context: int
) -> None:
    assert decode_step_bytes(model, batch=batch + 1, context_tokens=context) >= decode_step_bytes(
        model, batch=batch, context_tokens=context
    )
    one = decode_bound_tokens_per_s(model, gpu, context_tokens=context)
    assert decode_bound_tokens_per_s(model, gpu, context_tokens=context, batch=batch) >= one * 0.999
