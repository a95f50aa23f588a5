"""Compares a measured speed with the bound of the GPU's memory bandwidth, and a load with its memory."""

from typing import Final

from llmload.errors import ConfigError
from llmload.runs.summary_parts import BandwidthUse
from llmload.scenario import Scenario
from llmload.sizing.architecture import ModelSpec
from llmload.sizing.catalogue import load_model
from llmload.sizing.fit import DeploymentRequest, Fit, fit, plan_deployment, pool_warning
from llmload.sizing.gpus import find_gpu
from llmload.sizing.speed import decode_bound_tokens_per_s, implausible, mbu
from llmload.sizing.weights import default_format

FORMATS: Final = {"fp32": "fp32", "fp16": "bf16", "bf16": "bf16", "fp8": "fp8", "int8": "int8", "int4": "w4a16"}


def bandwidth_use(scenario: Scenario, request_output_tokens_per_s: float | None) -> BandwidthUse | None:
    """
    Return a single request's speed as a fraction of the bound by the GPU's memory bandwidth (MBU).

    None without a speed, with several users at a time, or for a GPU or model that is not in the catalogue.
    """
    deployment = scenario.deployment
    if request_output_tokens_per_s is None or scenario.load.constant_users != 1 or not deployment.gpu:
        return None
    try:
        model, gpu = _model_of(scenario), find_gpu(deployment.gpu)
        weight_format = FORMATS[deployment.precision] if deployment.precision else default_format(model)
        bound = decode_bound_tokens_per_s(model, gpu, gpus=deployment.gpus or 1, weight_format=weight_format)
    except ConfigError:
        return None
    used = mbu(request_output_tokens_per_s, bound)
    return BandwidthUse(mbu=used, bound_tokens_per_s=bound, implausible=implausible(used))


def memory_warning(scenario: Scenario, tokens_a_request: int) -> str | None:
    """Return a warning if the load may not fit the KV cache; None if it does or that is not known."""
    users = scenario.load.constant_users
    if users is None:
        return None
    try:
        found = _fit_of(scenario)
        return None if found is None else pool_warning(found, users, tokens_a_request)
    except ConfigError:
        return None


def memory_estimate(scenario: Scenario) -> dict[str, float] | None:
    """
    Return the bytes that sizing expects on each GPU: `weights`, `overhead`, and `kv_cache`, which fills the rest.

    For a pipeline, those of its tightest stage. None if GPU or model is not in the catalogue, or if the weights alone
    do not fit.
    """
    try:
        found = _fit_of(scenario)
    except ConfigError:
        return None
    if found is None or found.tightest.pool_bytes.best < 0:
        return None
    stage = found.tightest
    return {
        "weights": stage.weights_bytes.best,
        "overhead": stage.overhead.total_bytes.best,
        "kv_cache": stage.pool_bytes.best,
    }


def _fit_of(scenario: Scenario) -> Fit | None:
    """The scenario's deployment in the sizing; None without a GPU, ConfigError if GPU or model is not known."""
    deployment = scenario.deployment
    if not deployment.gpu:
        return None
    request = DeploymentRequest(
        model=_model_of(scenario),
        gpu=find_gpu(deployment.gpu),
        count=deployment.gpus or 1,
        tensor=deployment.tensor_parallel,
        weight_format=FORMATS[deployment.precision] if deployment.precision else None,
    )
    return fit(plan_deployment(request))


def _model_of(scenario: Scenario) -> ModelSpec:
    """The model by its catalogue name, its name or its name in requests; ConfigError if none is in the catalogue."""
    if scenario.model.catalogue is not None:
        return load_model(scenario.model.catalogue)
    try:
        return load_model(scenario.model.name)
    except ConfigError:
        return load_model(scenario.model.request_name)
