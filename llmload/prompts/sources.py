"""
Where prompts come from: the name a user gives, found as files.

`builtin`              the set that comes with the package
`lima`                 GAIR/lima on the Hugging Face hub
`hf:OWNER/NAME/FILE`   one file of a hub data set
anything else          a file or folder, relative to the scenario file, then to the working directory
"""

from dataclasses import dataclass
from pathlib import Path

from llmload.errors import ConfigError, DataError
from llmload.hub import fetch

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
        file = _fetch(_LIMA, f"{split}.jsonl")
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
    fetched = _fetch(f"{owner}/{name}", file)
    return Located(name=f"{owner}/{name}", source=source, split=None, files=(fetched,), licence=None)


def _fetch(repository: str, filename: str) -> Path:
    try:
        return fetch(repository, filename, "dataset")
    except ConfigError as error:
        raise DataError(f"hub data set '{repository}': {error}") from None


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
