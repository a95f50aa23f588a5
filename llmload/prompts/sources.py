"""
Where prompts come from: a source's name, its files, and the data set that is read from them.

`builtin`              the set that comes with the package
`lima`                 GAIR/lima on the Hugging Face hub
`hf:OWNER/NAME/FILE`   one file of a hub data set
anything else          a file or folder, relative to the scenario file, then to the working directory
"""

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from llmload.errors import ConfigError, DataError
from llmload.fetch import fetch
from llmload.prompts.conversation import Dialogue
from llmload.prompts.formats import Skipped, describe_read_error, read_dialogues

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
"""JSON Lines, an array of objects, Parquet."""
DEFAULT_SPLIT = "train"
"""The split that is read where a source has several and none is named."""

BUILTIN = "builtin"
_BUILTIN = Path(__file__).parent / "data" / "builtin.jsonl"
_BUILTIN_LICENCE = "Apache-2.0"
_LIMA = "GAIR/lima"
_LIMA_SPLITS = ("train", "test")
_LIMA_LICENCE = "CC BY-NC-SA, or the source's own where stricter"
_HASH_BLOCK_BYTES: Final = 1 << 20

Columns = tuple[Sequence[str], Callable[[str], Iterable[object]]]
"""The names of a data set's columns, and a function from a name to that column's values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """The rows of a data set that can become requests, and what identifies the data."""

    name: str
    source: str
    split: str | None
    sha256: str
    """Of the file's bytes; of all shards' bytes in their order where the split has several."""
    licence: str | None
    row_count: int
    dialogues: tuple[Dialogue, ...]
    skipped: tuple[Skipped, ...]

    def skipped_by_reason(self) -> dict[str, int]:
        """Return the number of skipped rows by reason."""
        return dict(Counter(skipped.reason for skipped in self.skipped))


def load_prompt_set(source: str, split: str | None, base_dir: Path) -> PromptSet:
    """
    Return a source's data set.

    Raises DataError where it cannot be found or fetched, has no known form, is damaged, or has no usable row.
    """
    located = locate(source, split, base_dir)
    files = located.files
    shown = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    columns, values = read_builtin(files[0]) if located.source == BUILTIN else read(files)
    try:
        dialogues, skipped = read_dialogues(columns, values, shown)
    except UnicodeDecodeError:
        # Arrow does not decode text before it is read.
        raise DataError(describe_read_error(files)) from None
    if not dialogues:
        raise DataError(f"{shown}: none of its {len(skipped)} rows can become a request: {_most_common(skipped)}")
    return PromptSet(
        name=located.name,
        source=located.source,
        split=located.split,
        sha256=_sha256(files),
        licence=located.licence,
        row_count=len(dialogues) + len(skipped),
        dialogues=dialogues,
        skipped=skipped,
    )


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
    Return the files of a source; those of a hub data set are fetched.

    Raises DataError where the source is not found, does not have the split, or cannot be accessed.
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
    candidates = list(dict.fromkeys(folder / written for folder in (base_dir.resolve(), Path.cwd())))
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
    """Return a split's one file, or its Parquet shards in the hub's order."""
    found: list[tuple[Path, ...]] = [(file,) for suffix in SUFFIXES if (file := folder / f"{split}{suffix}").is_file()]
    for home in (folder, folder / "data"):
        shards = tuple(sorted(file for file in home.glob("*-of-*.parquet") if file.name.startswith(f"{split}-")))
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
        raise DataError(f"prompts: source '{source}' ends in '{file.suffix}'; known are {', '.join(SUFFIXES)}")


def read_builtin(file: Path) -> Columns:
    """Return the rows of the set that comes with the package; its form is known, so no library is imported."""
    rows = [orjson.loads(line) for line in file.read_bytes().splitlines()]
    return list(rows[0]), lambda column: [row[column] for row in rows]


def read(files: tuple[Path, ...]) -> Columns:
    """Return the files' rows in their order, in memory: the user's cache of `datasets` is not used."""
    # Imported here: it takes most of a second, and most commands do not need it.
    import datasets

    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: no such file")
        if not file.stat().st_size:
            raise DataError(f"{file}: is empty")
    with _quiet(), tempfile.TemporaryDirectory(prefix="llmload-") as cache:
        try:
            # Not load_dataset: it reports each load over the network, and waits for that.
            form = datasets.Dataset.from_parquet if files[0].suffix == ".parquet" else datasets.Dataset.from_json
            data = form([str(file) for file in files], cache_dir=cache, keep_in_memory=True)
        except Exception as error:  # its readers' own errors pass through: pyarrow's, pandas's, StopIteration
            raise DataError(describe_read_error(files)) from error
    return data.column_names, lambda column: data[column][:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep `datasets` from drawing progress bars, logging errors that it raises too, and starting a thread for bars."""
    import datasets

    verbosity = datasets.utils.logging.get_verbosity()
    with_bars = not datasets.are_progress_bars_disabled() and not os.environ.get("HF_DATASETS_DISABLE_PROGRESS_BARS")
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    if with_bars:
        datasets.disable_progress_bars()
    # A thread now would break the workers that Locust forks.
    datasets.utils.tqdm.monitor_interval = 0
    try:
        yield
    finally:
        datasets.utils.logging.set_verbosity(verbosity)
        if with_bars:
            datasets.enable_progress_bars()


def _sha256(files: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(_HASH_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _most_common(skipped: tuple[Skipped, ...]) -> str:
    if not skipped:
        return "it has no rows"
    reason, rows = Counter(row.reason for row in skipped).most_common(1)[0]
    return f"{rows} of them: {reason}"
