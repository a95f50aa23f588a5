"""
Where prompts come from: the name a user gives, found as files.

`builtin`              the set that comes with the package
`lima`                 GAIR/lima on the Hugging Face hub
`hf:OWNER/NAME/FILE`   one file of a hub data set
anything else          a file or folder, relative to the scenario file, then to the working directory
"""

import os
from dataclasses import dataclass
from pathlib import Path

from llmload.errors import DataError

# One file of a data set on the Hugging Face hub, through the hub library's own cache; the door for huggingface_hub.

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


SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
"""Of the files that are read: JSON Lines, an array of objects, Parquet."""
DEFAULT_SPLIT = "train"
"""The split that is read where a source has several and none is asked for."""

BUILTIN = "builtin"
_BUILTIN = Path(__file__).parent / "data" / "builtin.jsonl"
_BUILTIN_LICENCE = "Apache-2.0"
_LIMA = "GAIR/lima"
_LIMA_SPLITS = ("train", "test")
_LIMA_LICENCE = "CC BY-NC-SA, or the source's own where stricter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A data set's files on this machine, all of one format, in the order they are read."""

    name: str
    source: str
    split: str | None
    files: tuple[Path, ...]
    licence: str | None


def locate(source: str, split: str | None, base_dir: Path) -> Located:
    """
    Return the files of a source, fetched from the hub where it is there.

    Raises DataError when the source is not found, has no such split, or access to it is refused.
    """
    if source == BUILTIN:
        _refuse_split(source, split)
        return Located(name=source, source=source, split=None, files=(_BUILTIN,), licence=_BUILTIN_LICENCE)
    if source == "lima":
        split = split or DEFAULT_SPLIT
        if split not in _LIMA_SPLITS:
            raise DataError(f"prompts: source 'lima' has no split '{split}': it has {' and '.join(_LIMA_SPLITS)}")
        file = fetch(_LIMA, f"{split}.jsonl")
        return Located(name=source, source=f"hf:{_LIMA}", split=split, files=(file,), licence=_LIMA_LICENCE)
    if source.startswith("hf:"):
        return _locate_on_hub(source, split)
    return _locate_path(source, split, base_dir)


def _locate_on_hub(source: str, split: str | None) -> Located:
    _refuse_split(source, split)
    owner, _, rest = source.removeprefix("hf:").partition("/")
    name, _, file = rest.partition("/")
    if not (owner and name and file):
        raise DataError(
            f"prompts: source '{source}' names no file: write hf:OWNER/NAME/FILE, as in hf:GAIR/lima/train.jsonl"
        )
    _refuse_suffix(source, Path(file))
    fetched = fetch(f"{owner}/{name}", file)
    return Located(name=f"{owner}/{name}", source=source, split=None, files=(fetched,), licence=None)


def _locate_path(source: str, split: str | None, base_dir: Path) -> Located:
    written = Path(source).expanduser()
    candidates = list(dict.fromkeys(index / written for index in (base_dir.resolve(), Path.cwd())))
    path = next((candidate for candidate in candidates if candidate.exists()), None)
    if path is None:
        looked = " nor ".join(f"'{candidate}'" for candidate in candidates)
        raise DataError(
            f"prompts: source '{source}' is not builtin, lima or hf:OWNER/NAME/FILE, and there is no {looked}"
        )
    if path.is_dir():
        split = split or DEFAULT_SPLIT
        return Located(name=path.name, source=source, split=split, files=_files_of_split(path, split), licence=None)
    _refuse_split(source, split)
    _refuse_suffix(source, path)
    return Located(name=path.stem, source=source, split=None, files=(path,), licence=None)


def _files_of_split(folder: Path, split: str) -> tuple[Path, ...]:
    """Return a split's one file, or its Parquet shards in order as the hub lays them out."""
    found: list[tuple[Path, ...]] = [(file,) for suffix in SUFFIXES if (file := folder / f"{split}{suffix}").is_file()]
    for index in (folder, folder / "data"):
        shards = tuple(sorted(file for file in index.glob("*-of-*.parquet") if file.name.startswith(f"{split}-")))
        if shards:
            found.append(shards)
    if not found:
        has = ", ".join(sorted(file.name for file in folder.iterdir() if file.suffix in SUFFIXES)) or "none"
        raise DataError(
            f"{folder}: no file of split '{split}', such as {split}.jsonl; files that can be read there: {has}"
        )
    if len(found) > 1:
        names = ", ".join(str(files[0].relative_to(folder)) for files in found)
        raise DataError(f"{folder}: split '{split}' is there more than once ({names}): name the file as the source")
    return found[0]


def _refuse_split(source: str, split: str | None) -> None:
    if split is not None:
        raise DataError(f"prompts: source '{source}' has no splits: leave out split = '{split}'")


def _refuse_suffix(source: str, file: Path) -> None:
    if file.suffix not in SUFFIXES:
        raise DataError(f"prompts: source '{source}' ends on '{file.suffix}': it can be one of {', '.join(SUFFIXES)}")
