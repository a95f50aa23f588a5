"""One file of a data set on the Hugging Face hub, through the hub library's own cache; the door for huggingface_hub."""

import os
from pathlib import Path

from llmload.errors import DataError

METADATA_TIMEOUT_S = 5.0
"""How long the hub may take to say whether it has the file, where `HF_HUB_ETAG_TIMEOUT` does not set it."""


def fetch(repository: str, filename: str) -> Path:
    """
    Return the local path of a data set's file, from the cache where it is there and the hub cannot be reached.

    Raises DataError that says what to do: no access, no such file, no network.
    """
    # Imported here: a run on local prompts does not wait for it.
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        # Asked first because it does not retry: without it, a missing network takes 23 s to say so.
        get_hf_file_metadata(hf_hub_url(repository, filename, repo_type="dataset"), timeout=_timeout_s())
        return Path(hf_hub_download(repository, filename, repo_type="dataset"))
    except Exception as error:  # noqa: BLE001 # its HTTP library's errors pass through, and that library changes
        reason = _reason(error, repository, filename)
        try:
            return Path(hf_hub_download(repository, filename, repo_type="dataset", local_files_only=True))
        except (LocalEntryNotFoundError, ValueError):
            # Not `from error`: its text may hold the token it was sent with.
            raise DataError(f"hub data set '{repository}': {reason}") from None


def _timeout_s() -> float:
    from huggingface_hub import constants

    return constants.HF_HUB_ETAG_TIMEOUT if os.environ.get("HF_HUB_ETAG_TIMEOUT") else METADATA_TIMEOUT_S


def _reason(error: Exception, repository: str, filename: str) -> str:
    """Return what went wrong and what to do; never the library's own text, which may hold addresses and headers."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        page = f"https://huggingface.co/datasets/{repository}"
        return f"access is gated: accept its terms on {page}, then set HF_TOKEN to a token of the same account"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            "there is none of that name, or it is private: check the name, or set HF_TOKEN to a token that may read it"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return f"it has no file '{filename}'"
    if isinstance(error, errors.HFValidationError):
        return "not a name of the form `owner/name`"
    if isinstance(error, errors.HfHubHTTPError):
        return _status_reason(error.response.status_code)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return (
            f"HF_HUB_OFFLINE is set and '{filename}' is not in the cache: unset it, or name a local copy as the source"
        )
    why = type(error).__name__
    return f"the hub cannot be reached ({why}) and '{filename}' is not in the cache: name a local copy as the source"


def _status_reason(status: int) -> str:
    if status == 401:
        return "the hub refused the token (401): set HF_TOKEN to a valid one, or unset it"
    return f"the hub answered with status {status}: try again later, or name a local copy as the source"
