"""What an engine says of one request's own times and drafted tokens, at the end of its answer."""

import math
from collections.abc import Mapping
from typing import Any, Final

from llmload.client.token_counts import count_in
from llmload.units import MS_PER_S

_LONGEST_MS: Final = 1e9
Said = Mapping[str, float | int | None]
NOTHING: Final[Said] = {}


def timings_in(chunk: Mapping[str, Any]) -> Said:
    """
    Return what a chunk says, by the fields of a record; nothing where it says nothing. Durations alone, never a clock.

    vLLM (`--enable-per-request-metrics`): `metrics`, whose `time_to_first_token_ms` begins when the request was
    scheduled, after its queue. llama.cpp: `timings`, which know no queue. Drafts are those of speculative decoding.
    """
    if isinstance(metrics := chunk.get("metrics"), dict):
        return {
            "engine_queue_s": _seconds(metrics, "queue_time_ms"),
            "engine_prefill_s": _seconds(metrics, "time_to_first_token_ms"),
            "engine_decode_s": _seconds(metrics, "generation_time_ms"),
            **_drafts(metrics.get("speculative_decoding")),
        }
    if isinstance(timings := chunk.get("timings"), dict):
        return {
            "engine_prefill_s": _seconds(timings, "prompt_ms"),
            "engine_decode_s": _seconds(timings, "predicted_ms"),
            "draft_tokens": count_in(timings, "draft_n"),
            "accepted_tokens": count_in(timings, "draft_n_accepted"),
        }
    return NOTHING


def _drafts(said: object) -> Said:
    return {
        "drafts": count_in(said, "num_spec_steps"),
        "draft_tokens": count_in(said, "num_draft_tokens"),
        "accepted_tokens": count_in(said, "num_accepted_draft_tokens"),
    }


def _seconds(said: Mapping[str, Any], key: str) -> float | None:
    """Return a duration in seconds; None where it is none, or longer than any request."""
    value: Any = said.get(key)
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= _LONGEST_MS:
        return None
    return float(value) / MS_PER_S
