"""A data set of prompts, read whole; the door for the `datasets` library."""

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from llmload.errors import DataError
from llmload.workload.broken_file import what_is_wrong
from llmload.workload.conversation import Dialogue
from llmload.workload.forms import Skipped, read_dialogues
from llmload.workload.sources import BUILTIN, locate

Columns = tuple[Sequence[str], Callable[[str], Iterable[object]]]
"""The names of a data set's columns, and what gives one's values."""
_HASH_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """The rows of a data set that can become requests, and what identifies the data they were read from."""

    name: str
    source: str
    split: str | None
    sha256: str
    """Of the file's bytes; of all shards' bytes one after the other where the split has several."""
    licence: str | None
    row_count: int
    dialogues: tuple[Dialogue, ...]
    skipped: tuple[Skipped, ...]

    def skipped_by_reason(self) -> dict[str, int]:
        """Return how many rows were left out for which reason."""
        return dict(Counter(skipped.reason for skipped in self.skipped))


def load_prompt_set(source: str, split: str | None, base_dir: Path) -> PromptSet:
    """
    Return a source's data set.

    Raises DataError when it cannot be had, is in no known form, is broken, or has no row that can become a request.
    """
    located = locate(source, split, base_dir)
    files = located.files
    shown = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    columns, values = read_own(files[0]) if located.source == BUILTIN else read(files)
    try:
        dialogues, skipped = read_dialogues(columns, values, shown)
    except UnicodeDecodeError:
        # Arrow takes any bytes for text until they are looked at.
        raise DataError(what_is_wrong(files)) from None
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


def read_own(file: Path) -> Columns:
    """Return the rows of the set that comes with the package, whose form is known: no library has to be started."""
    rows = [orjson.loads(line) for line in file.read_bytes().splitlines()]
    return list(rows[0]), lambda column: [row[column] for row in rows]


def read(files: tuple[Path, ...]) -> Columns:
    """Return the files' rows in their order, held in memory: the user's cache of `datasets` is not touched."""
    # Imported here: it takes the better part of a second, and most of the package does without it.
    import datasets  # type: ignore[import-untyped] # it ships no types

    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: there is no such file")
        if not file.stat().st_size:
            raise DataError(f"{file}: is empty")
    with _quiet(), tempfile.TemporaryDirectory(prefix="llmload-") as cache:
        try:
            # Not load_dataset: it reports each load to its makers, and waits for the network to do so.
            form = datasets.Dataset.from_parquet if files[0].suffix == ".parquet" else datasets.Dataset.from_json
            data = form([str(file) for file in files], cache_dir=cache, keep_in_memory=True)
        except Exception as error:  # its readers' own errors pass through: pyarrow's, pandas's, StopIteration
            raise DataError(what_is_wrong(files)) from error
    return data.column_names, lambda column: data[column][:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep `datasets` from drawing progress bars, logging what is raised anyway, and starting a thread for the bars."""
    import datasets

    verbosity = datasets.utils.logging.get_verbosity()
    with_bars = not datasets.are_progress_bars_disabled() and not os.environ.get("HF_DATASETS_DISABLE_PROGRESS_BARS")
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    if with_bars:
        datasets.disable_progress_bars()
    # A thread at this point would break the workers that Locust forks.
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
