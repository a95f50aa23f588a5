"""What a sweep asks of an engine beside its load: an empty prefix cache between points, and its number of GPUs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from math import prod
from typing import Any, Final
from urllib.error import HTTPError

from llmload.access.address import root_of
from llmload.access.secrecy import NOBODY, Access
from llmload.client.settings import context_of
from llmload.errors import EngineError
from llmload.fetch import http_get
from llmload.portable import carried

TIMEOUT_S: Final = 10.0
MAX_BYTES: Final = 1_000_000
RESETS: Final[Mapping[str, str]] = {"sglang": "/flush_cache"}
RESET: Final = "/reset_prefix_cache"
"""vLLM's path; other engines' are in `RESETS`."""
_VLLM_SIZES: Final = (
    *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"),
    "prefill_context_parallel_size",
)
"""vLLM's number of GPUs is the product of these; the last one came later than the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineControl:
    """The engine at several addresses."""

    name: str
    base_urls: Sequence[str]
    access: Access = NOBODY
    ca_file: str | None = None
    verify_tls: bool = True

    def reset_prefix_cache(self) -> str | None:
        """Empty the prefix cache at every address; return why one was not, None where all were."""
        path = RESETS.get(self.name, RESET)
        for url in self.base_urls:
            try:
                status, answer = self._ask(url, path, posted=b"")
            except (OSError, ValueError, HTTPException) as error:
                return f"{path} did not answer: {self.access.hider()(str(error))}"
            if status == 404:
                return f"the engine has no {path}: start vLLM with VLLM_SERVER_DEV_MODE=1, or set load.between = 'salt'"
            if status >= 400:
                return f"{path} answered {status}"
            if isinstance(answer, dict) and answer.get("success") is False:
                return "the engine says that parts of the cache are in use"
        return None

    def check_reset(self) -> None:
        """Empty the prefix cache before the first request; EngineError, with a remedy, where that does not work."""
        why = self.reset_prefix_cache()
        if why is not None:
            raise EngineError(f"load.between = 'reset_prefix_cache': {why}")

    def gpus(self) -> int | None:
        """Return the number of GPUs by all parallel sizes at each address; None where an engine does not say them."""
        found = [self._gpus_at(url) for url in self.base_urls]
        known = [count for count in found if count is not None]
        return sum(known) if len(known) == len(found) else None

    def _gpus_at(self, url: str) -> int | None:
        path = "/get_server_info" if self.name == "sglang" else "/server_info?config_format=json"
        try:
            status, answer = self._ask(url, path)
        except (OSError, ValueError, HTTPException):
            return None
        if status >= 400 or not isinstance(answer, dict):
            return None
        return gpus_of_sglang(answer) if self.name == "sglang" else gpus_of_vllm(answer)

    def _ask(self, url: str, path: str, posted: bytes | None = None) -> tuple[int, object]:
        root, query = root_of(url)
        tls = context_of(url, self.ca_file, self.verify_tls)
        whole = f"{root}{path}" + (f"{'&' if '?' in path else '?'}{query[1:]}" if query else "")
        headers = self.access.all_headers()
        try:
            answer = http_get(whole, headers=headers, tls=tls, timeout_s=TIMEOUT_S, max_bytes=MAX_BYTES, posted=posted)
        except HTTPError as error:
            return error.code, None
        try:
            return answer.status, carried(json.loads(answer.body))
        except (ValueError, RecursionError):
            return answer.status, None


def gpus_of_vllm(info: Mapping[str, Any]) -> int | None:
    """
    Return vLLM's number of GPUs by its `/server_info`; None where it does not say all that counts.

    That is so on a CPU, where other servers of the same deployment have other ranks of the data parallelism, and where
    prefill and decode are apart.
    """
    config = info.get("vllm_config")
    parallel = config.get("parallel_config") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(parallel, dict):
        return None
    device = config.get("device_config")
    on_cpu = isinstance(device, dict) and "cpu" in (device.get("device_type"), device.get("device"))
    elsewhere = parallel.get("data_parallel_external_lb") or parallel.get("data_parallel_hybrid_lb")
    if on_cpu or elsewhere or config.get("kv_transfer_config"):
        return None
    sizes = [parallel.get(name, 1 if name == _VLLM_SIZES[-1] else None) for name in _VLLM_SIZES]
    return _product(sizes)


def gpus_of_sglang(info: Mapping[str, Any]) -> int | None:
    """Return SGLang's number of GPUs by its `/get_server_info`; None where it does not say all that counts."""
    if info.get("disaggregation_mode") not in (None, "null") or str(info.get("device")) == "cpu":
        return None
    sizes = [info.get(name) for name in ("tp_size", "pp_size", "dp_size")]
    if info.get("enable_dp_attention"):
        sizes = sizes[:2]  # data parallel ranks are then within the tensor parallel ones
    return _product(sizes)


def _product(sizes: Sequence[object]) -> int | None:
    whole = [size for size in sizes if isinstance(size, int) and not isinstance(size, bool) and size > 0]
    return prod(whole) if len(whole) == len(sizes) else None
