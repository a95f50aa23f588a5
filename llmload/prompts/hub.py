"""The Hugging Face hub's data sets, read by its own library."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmload.errors import DataError
from llmload.prompts.files import Row


def read_hub_rows(files: tuple[Path, ...]) -> Iterator[Row]:
    """
    Yield the rows of fetched JSON Lines by `datasets`, in memory: the user's cache of it is not used.

    Raises DataError where it cannot read them; the text does not say which row it is.
    """
    # Imported here: it takes most of a second, and most commands do not need it.
    import datasets

    with _quiet(), tempfile.TemporaryDirectory(prefix="llmload-") as cache:
        try:
            # Not load_dataset: it reports each load over the network, and waits for that.
            data = datasets.Dataset.from_json([str(file) for file in files], cache_dir=cache, keep_in_memory=True)
            rows = [Row(str(files[0]), number, None, row) for number, row in enumerate(data)]
        except Exception as error:  # its readers' own errors pass through: pyarrow's, pandas's, StopIteration
            raise DataError(f"{files[0]}: cannot be read by `datasets`") from error
    yield from rows


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
