"""Which requests fail, and how."""

import random
from collections.abc import Mapping

HTTP_STATUS = {
    "http_400": 400,
    "http_401": 401,
    "http_404": 404,
    "http_429": 429,
    "http_500": 500,
    "http_503": 503,
    "html_error": 502,
}
"""Faults that answer at once with an error status, without taking a slot."""

MID_ANSWER = frozenset({"error_event", "reset", "early_close", "no_finish", "stall", "malformed_chunk"})
"""Faults that strike half way: after ceil(output_tokens / 2) tokens."""

KINDS: dict[str, str] = {
    "http_400": "HTTP 400 with a JSON error",
    "http_401": "HTTP 401 with a JSON error",
    "http_404": "HTTP 404 with a JSON error",
    "http_429": "HTTP 429 with Retry-After: 1 and a JSON error",
    "http_500": "HTTP 500 with a JSON error",
    "http_503": "HTTP 503 with a JSON error",
    "html_error": "HTTP 502 with an HTML page, as a proxy answers",
    "error_event": "an error object inside a 200 stream, half way (not streamed: HTTP 500)",
    "reset": "the connection is reset (RST) half way",
    "early_close": "the connection is closed half way, the HTTP body incomplete",
    "no_finish": "the HTTP body ends properly half way, but no finish_reason came (not streamed: HTTP 500)",
    "stall": "nothing more is written from half way on; connection and slot are held",
    "stall_first": "not one byte is written; connection and slot are held",
    "malformed_chunk": "half way, a chunk length that is no number; then the connection is closed",
    "not_streamed": "one whole JSON answer although a stream was asked for",
    "no_usage": "token counts are left out",
    "no_done": "the stream ends without data: [DONE]",
    "close_after": "the connection is closed after the reply although keep-alive was promised",
}


class FaultDealer:
    """Deals each arriving request a fault or none, in the shares asked for; the same seed deals the same sequence."""

    def __init__(self, shares: Mapping[str, float], seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a reproducible sequence, no secret
        self._shares = dict(shares)

    def next(self) -> str | None:
        """The fault of the next request, or None."""
        if not self._shares:
            return None
        drawn = self._random.random()
        for kind, share in self._shares.items():
            if drawn < share:
                return kind
            drawn -= share
        return None
