"""
Where prompts come from: a source's name, its files, and the data set that is read from them.

`builtin`              the set that comes with the package
`lima`                 GAIR/lima on the Hugging Face hub
`hf:OWNER/NAME/FILE`   one file of a hub data set
anything else          a file or folder, relative to the scenario file, then to the working directory
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmload.errors import ConfigError, DataError, shown
from llmload.extras import need
from llmload.fetch import fetch
from llmload.prompts.conversation import Dialogues
from llmload.prompts.files import Row, heard, read_json
from llmload.prompts.formats import KEYS, RowsRead, Skipped, read_dialogues
from llmload.prompts.hub import read_hub_rows
from llmload.prompts.parquet import read_parquet

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
"""JSON Lines, an array of objects, Parquet."""
DEFAULT_SPLIT = "train"
"""The split that is read where a source has several and none is named."""

BUILTIN = "builtin"
BUILTIN_FILE = Path(__file__).parent / "data" / "builtin.jsonl"
_BUILTIN_LICENCE = "Apache-2.0"
_LIMA = "GAIR/lima"
_LIMA_SPLITS = ("train", "test")
_LIMA_LICENCE = "CC BY-NC-SA, or the source's own where stricter"
_LINES: Final = frozenset({".jsonl", ".ndjson"})
_PACKED: Final = frozenset({".gz", ".zst", ".zstd", ".bz2", ".xz", ".zip", ".tar", ".tgz", ".7z"})
_HASH_BLOCK_BYTES: Final = 1 << 20

MENDED: Final = "half of a surrogate pair became U+FFFD"


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
    dialogues: Dialogues
    skipped: tuple[Skipped, ...]
    mended: int = 0
    """Rows whose text was changed, since no UTF-8 can carry it."""

    def changed_by_reason(self) -> dict[str, int]:
        """Return the number of rows whose text was changed, by what was done."""
        return {MENDED: self.mended} if self.mended else {}

    def notes(self) -> tuple[str, ...]:
        """Return a line for the rows that are left out, and one for those that were changed, where there are any."""
        lines = []
        if self.skipped:
            by_reason = Counter(skipped.reason for skipped in self.skipped).most_common()
            reasons = "; ".join(f"{reason} ({rows:,})" for reason, rows in by_reason[:3])
            more = "" if len(by_reason) <= 3 else f"; {len(by_reason) - 3} more reasons: llmload prompts stats"
            lines.append(
                f"prompts {self.name}: {len(self.skipped):,} of {self.row_count:,} rows are left out: {reasons}{more}"
            )
        if self.mended:
            lines.append(f"prompts {self.name}: {MENDED} ({self.mended:,} of {self.row_count:,} rows)")
        return tuple(lines)

    def skipped_by_reason(self) -> dict[str, int]:
        """Return the number of skipped rows by reason."""
        return dict(Counter(skipped.reason for skipped in self.skipped))


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A data set's files on this machine, all of one format, in the order they are read."""

    name: str
    source: str
    split: str | None
    files: tuple[Path, ...]
    licence: str | None


def load_prompt_set(source: str, split: str | None, base_dir: Path) -> PromptSet:
    """
    Return a source's data set.

    Raises DataError where it cannot be found or fetched, has no known form, is damaged, or has no usable row.
    """
    located = locate(source, split, base_dir)
    files = located.files
    named = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    read = _read(located)
    usable, skipped = read.usable, read.skipped
    if not usable:
        if not skipped:
            raise DataError(f"{named}: has no rows")
        raise DataError(f"{named}: none of its {len(skipped)} rows can become a request: {_most_common(skipped)}")
    return PromptSet(
        name=located.name,
        source=located.source,
        split=located.split,
        sha256=_sha256(files),
        licence=located.licence,
        row_count=len(usable) + len(skipped),
        dialogues=usable,
        skipped=skipped,
        mended=read.mended,
    )


def text_of_builtin(name: str) -> PromptSet:
    """Return what identifies prompts that are made of the built-in ones' text; it has no separate rows."""
    return PromptSet(
        name=name,
        source=name,
        split=None,
        sha256=_sha256((BUILTIN_FILE,)),
        licence=_BUILTIN_LICENCE,
        row_count=0,
        dialogues=Dialogues(),
        skipped=(),
    )


def _read(located: Located) -> RowsRead:
    if located.source.startswith("hf:") and located.files[0].suffix in _LINES:
        with suppress(DataError):
            return read_dialogues(read_hub_rows(located.files))
        # That library infers types and stops at rows that differ: ours reads them, or says which row it is.
    return read_dialogues(heard(read_rows(located.files)))


def read_rows(files: tuple[Path, ...]) -> Iterator[Row]:
    """Yield the rows of files of one format, numbered on from file to file; DataError names file and row."""
    count = 0
    for file in files:
        if file.suffix.lower() == ".parquet":
            rows = read_parquet(file, str(file), KEYS, count)
        else:
            rows = read_json(file, str(file), count)
        for row in rows:
            yield row
            count += 1


def locate(source: str, split: str | None, base_dir: Path) -> Located:
    """
    Return the files of a source; those of a hub data set are fetched.

    Raises DataError where the source is not found, does not have the split, or cannot be accessed.
    """
    if source == BUILTIN:
        _refuse_split(source, split)
        return Located(name=source, source=source, split=None, files=(BUILTIN_FILE,), licence=_BUILTIN_LICENCE)
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
    need("hub", f"hub data set '{repository}'")
    try:
        return fetch(repository, filename, "dataset")
    except ConfigError as error:
        raise DataError(f"hub data set '{repository}': {error}") from None


def _locate_path(source: str, split: str | None, base_dir: Path) -> Located:
    try:
        written = Path(source).expanduser()
        candidates = list(dict.fromkeys(folder / written for folder in (base_dir.resolve(), Path.cwd())))
        path = next((candidate for candidate in candidates if candidate.exists()), None)
    except (OSError, RuntimeError, ValueError) as error:  # too long, no permission, no such user
        raise DataError(f"prompts: source {shown(source)} cannot be looked for: {error}") from None
    if path is None:
        looked = " nor ".join(f"'{candidate}'" for candidate in candidates)
        raise DataError(
            f"prompts: source '{source}' is not builtin, lima or hf:OWNER/NAME/FILE, and there is no {looked}"
        )
    if path.is_dir():
        split = split or DEFAULT_SPLIT
        try:
            files = _files_of_split(path, split)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None
        return Located(name=path.name, source=source, split=split, files=files, licence=None)
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
    ending = file.suffix.lower()
    if ending in _PACKED:
        raise DataError(f"prompts: source '{source}' is compressed ('{file.suffix}'): unpack it first")
    if ending not in SUFFIXES:
        raise DataError(f"prompts: source '{source}' ends in '{file.suffix}'; known are {', '.join(SUFFIXES)}")


def _sha256(files: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(_HASH_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _most_common(skipped: tuple[Skipped, ...]) -> str:
    reason, rows = Counter(row.reason for row in skipped).most_common(1)[0]
    return f"{rows} of them: {reason}"
