"""Files from the Hugging Face hub, through the hub library: its cache, its tokens, its offline mode."""

import os
from pathlib import Path
from typing import Final, Literal

from llmload.errors import ConfigError

RepoType = Literal["model", "dataset"]
METADATA_TIMEOUT_S: Final = 5.0
"""How long the hub may take to say whether it has the file, where `HF_HUB_ETAG_TIMEOUT` does not set it."""
_PAGES: Final = {"model": "https://huggingface.co", "dataset": "https://huggingface.co/datasets"}


def fetch(repository: str, filename: str, repo_type: RepoType) -> Path:
    """
    Return the local path of a repository's file, from the cache where it is there and the hub cannot be reached.

    Raises ConfigError with the reason and what to do: no access, no such file, no network.
    """
    # Imported here: it takes 0.2 s, and few commands need it.
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        # First, because it does not retry: without it, a missing network takes 23 s to be reported.
        get_hf_file_metadata(hf_hub_url(repository, filename, repo_type=repo_type), timeout=_timeout_s())
        return Path(hf_hub_download(repository, filename, repo_type=repo_type))
    except Exception as error:  # noqa: BLE001 # its HTTP library's errors pass through, and that library changes
        reason = _reason(error, repository, filename, repo_type)
        try:
            return Path(hf_hub_download(repository, filename, repo_type=repo_type, local_files_only=True))
        except (LocalEntryNotFoundError, ValueError):
            # Not `from error`: its text may contain the token that was sent.
            raise ConfigError(reason) from None


def _timeout_s() -> float:
    from huggingface_hub import constants

    return constants.HF_HUB_ETAG_TIMEOUT if os.environ.get("HF_HUB_ETAG_TIMEOUT") else METADATA_TIMEOUT_S


def _reason(error: Exception, repository: str, filename: str, repo_type: RepoType) -> str:
    """What went wrong and what to do; never the library's own text, which may contain addresses and headers."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        page = f"{_PAGES[repo_type]}/{repository}"
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
        return f"HF_HUB_OFFLINE is set and '{filename}' is not in the cache: unset it, or name a local copy"
    why = type(error).__name__
    return f"the hub cannot be reached ({why}) and '{filename}' is not in the cache: name a local copy"


def _status_reason(status: int) -> str:
    if status == 401:
        return "the hub refused the token (401): set HF_TOKEN to a valid one, or unset it"
    return f"the hub answered with status {status}: try again later, or name a local copy"
