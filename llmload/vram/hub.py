"""A model's config from the Hugging Face Hub: the only door of this room to the network, opened on request."""

import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from llmload.errors import ConfigError

_TIMEOUT_S = 10.0


def hub_config(model_id: str) -> Mapping[str, Any]:
    """
    The config.json of a model on the Hub, from HF_ENDPOINT with HF_TOKEN where these are set.

    Raises ConfigError for an id that is none, for no answer within 10 s, and for a model that the token may not read.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model_id):
        raise ConfigError(f"{model_id!r} is not a Hub id such as Qwen/Qwen3-32B")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    token = os.environ.get("HF_TOKEN")
    url = f"{endpoint}/{model_id}/resolve/main/config.json"
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"HF_ENDPOINT = {endpoint!r} is not an http address")
    request = Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})  # noqa: S310 - checked above
    try:
        with urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - checked above
            values = json.load(answer)
    except HTTPError as error:
        hint = "; set HF_TOKEN to one that may read it" if error.code in (401, 403) else ""
        raise ConfigError(f"{url}: HTTP {error.code}{hint}") from error
    except (URLError, TimeoutError, ValueError) as error:
        raise ConfigError(f"{url}: cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{url}: holds no config")
    return values
