"""
How the files of a run folder are written: one policy for a disk that is full or fails, and a folder that goes away.

A file that cannot be written is named once, the run continues, and what is missing at its end is in the verdict.
"""

import errno
import logging
import os
import stat
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Final

from llmload.errors import RunFolderError
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Level, Reason, Verdict
from llmload.runs.summary_parts import RequestFile

PATIENCE_S: Final = 3.0
"""How long the end of a run waits for room on the disk, for its lines and again for its summary."""
HELD_BYTES: Final = 16_000_000
"""How much of a file is held back in memory while it cannot be written: some 15,000 requests with 32 chunks each."""
LOST_RECORDS, MISSING_LINES, UNWRITTEN_FILES = "lost_records", "missing_lines", "unwritten_files"
NOT_IN_THE_FOLDER: Final = (LOST_RECORDS, MISSING_LINES)
"""Checks that speak of requests that the figures include, and pages and exports do not."""
_RETRY_S: Final = 1.0
"""How often lines that are held back are tried again, and how often a file is looked for."""
_END_RETRY_S: Final = 0.25
_SPARES: Final = 8
_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})

logger = logging.getLogger(__name__)


def why_of(error: OSError) -> str:
    """Return the system's words for an error."""
    return error.strerror or str(error)


class Place:
    """
    A folder that is held open: its files are written wherever it is moved, and never into another of its name.

    It holds some descriptors in reserve, so that sockets cannot take the last one from the run's own files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        """Where the folder is now, as far as `gone` has looked."""
        self._fd: int | None = None
        self._spares: list[int] = []

    @property
    def fd(self) -> int:
        """The folder's descriptor, opened at first need; OSError if it cannot be opened."""
        if self._fd is None:
            self._fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY)
            weakref.finalize(self, _close_all, [self._fd])
            weakref.finalize(self, _close_all, self._spares)
        return self._fd

    def gone(self) -> str | None:
        """Return why the folder is not there any more, None while it is; one that was moved is followed."""
        if self._fd is None or _is_at(self.path, self._fd):
            return None
        with suppress(OSError):
            moved = Path(f"/proc/self/fd/{self._fd}").readlink()
            if _is_at(moved, self._fd):
                self.path = moved
                return None
        replaced = os.path.lexists(self.path)
        return "another folder has taken the run folder's place" if replaced else "the run folder was deleted"

    def open(self, name: str, flags: int) -> int:
        """Open a file of the folder, with a descriptor of the reserve if there is no other; OSError if it fails."""
        flags |= os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW
        try:
            return os.open(name, flags, 0o644, dir_fd=self.fd)
        except OSError as error:
            if error.errno not in _NO_DESCRIPTORS or not self._spares:
                raise
        _close_all(self._spares)  # all of them: a thread that resolves a name may take one meanwhile
        try:
            return os.open(name, flags, 0o644, dir_fd=self.fd)
        finally:
            self.reserve()

    def reserve(self) -> None:
        """Fill the reserve of descriptors, as far as there are any."""
        with suppress(OSError):
            while len(self._spares) < _SPARES:
                self._spares.append(os.open(os.devnull, os.O_RDONLY))


def _close_all(descriptors: list[int]) -> None:
    """Close them now: gevent's `os.close`, which a process that sends has, waits for its loop."""
    while descriptors:
        descriptor = descriptors.pop()
        os.closerange(descriptor, descriptor + 1)


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether the path leads to what the descriptor holds; True where that cannot be found out now."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


class WriteFaults:
    """Which files of a run are not as they should be; the first fault of each is logged."""

    def __init__(self) -> None:
        self.unwritten: dict[str, str] = {}
        """What lacks something now, and why: by the file's name."""
        self._logged: set[str] = set()

    @contextmanager
    def tolerated(self, file: Path, what: str) -> Iterator[None]:
        """Note an OSError, or that of another's writer, naming what is then lacking, instead of raising it."""
        try:
            yield
        except (OSError, RunFolderError) as error:
            why = why_of(error) if isinstance(error, OSError) else str(error).rpartition(": ")[2]
            self.note(file, why, f"the run continues without {what}")
        else:
            self.mended(file)

    def note(self, file: Path, why: str, follows: str) -> None:
        """Note that a file could not be written, and log what follows from that, once a file."""
        self.unwritten.setdefault(file.name, why)
        if file.name not in self._logged:
            self._logged.add(file.name)
            logger.error("%s cannot be written: %s; %s", file, why, follows)

    def mended(self, file: Path) -> None:
        """Note that the file lacks nothing any more."""
        self.unwritten.pop(file.name, None)


class AppendedFile:
    """
    A file that gets whole lines, opened at the first one and kept open.

    Lines that cannot be written are held back, up to `HELD_BYTES`, and follow once there is room. A line that was
    written in part is taken back, or completed later, so that the file can be read at any time.
    """

    def __init__(self, place: Place, name: str, faults: WriteFaults, *, what: str, header: bytes = b"") -> None:
        self._place, self._name, self._faults, self._what, self._header = place, name, faults, what, header
        self._fd: int | None = None
        self._held, self._held_lines, self._torn = bytearray(), 0, b""
        self._appended = self._dropped = self._cut = 0
        self._why: str | None = None
        self._gone: str | None = None
        self._retry_s = self._look_s = 0.0
        self._end = 0
        """Size of the file, by what was written to it."""

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._place.path / self._name

    @property
    def lost(self) -> Counter[str]:
        """How many lines are not in the file as it is now, by the reason."""
        why = self._gone or self._why
        lost = self._appended if self._gone else self._held_lines + self._dropped + self._cut
        return Counter({why or "it was cut": lost}) if lost else Counter()

    def open(self) -> None:
        """Open the file now, before anything is appended; OSError if it cannot be opened."""
        if self._fd is not None:
            return
        self._fd = self._place.open(self._name, os.O_APPEND)
        self._end = os.fstat(self._fd).st_size
        if not self._end:
            self._held[:0] = self._header

    def append(self, lines: bytes) -> None:
        """Write whole lines, now or once there is room; a fault is logged once."""
        count, now_s = lines.count(b"\n"), time.monotonic()
        self._appended += count
        if now_s >= self._look_s:
            self._look_s = now_s + _RETRY_S
            self._look()
        waits = bool(self._held)
        if waits and len(self._held) + len(lines) > HELD_BYTES:
            self._dropped += count
        else:
            self._held += lines
            self._held_lines += count
        if not waits or now_s >= self._retry_s:
            self._retry_s = now_s + _RETRY_S
            self._flush()

    def settle(self, patience_s: float = PATIENCE_S) -> None:
        """Write what is held back, trying for so long, and count what is not in the file then."""
        end_s = time.monotonic() + patience_s
        self._look()
        while self._held and not self._gone and not self._flush() and time.monotonic() < end_s:
            time.sleep(_END_RETRY_S)
        self._look()
        self._count_cut()

    def close(self) -> None:
        """Write what is held back, if there is room now, and close the file."""
        if self._held:
            self._flush()
        if self._fd is not None:
            descriptor, self._fd = self._fd, None
            try:
                FileIO(descriptor, "ab").close()
            except OSError as error:  # a network file system may say only now that it has no room
                self._note(why_of(error))

    def _flush(self) -> bool:
        """Write what is held back; return whether nothing is left."""
        try:
            self.open()
            while self._held:
                self._took(os.write(self._fd or 0, self._held))
        except OSError as error:
            self._take_back_torn()
            self._held_lines = self._held.count(b"\n")
            self._note(self._place.gone() or why_of(error))
            return False
        self._held_lines = 0
        if not self._dropped:
            self._faults.mended(self.path)
        return True

    def _took(self, written: int) -> None:
        """Note that the first bytes of what is held are in the file now."""
        self._end += written
        if written == len(self._held):
            self._held.clear()
            self._torn = b""
            return
        part = bytes(self._held[:written])
        whole = part.rfind(b"\n") + 1
        self._torn = part[whole:] if whole else self._torn + part
        del self._held[:written]

    def _take_back_torn(self) -> None:
        """Cut a line that was written in part, or leave it to be completed where that cannot be done."""
        if self._torn and self._fd is not None:
            with suppress(OSError):
                os.ftruncate(self._fd, self._end - len(self._torn))
                self._end -= len(self._torn)
                self._held[:0] = self._torn
                self._torn = b""

    def _note(self, why: str) -> None:
        self._why = why
        follows = f"the run continues without {self._what}; up to {HELD_BYTES // 1_000_000} MB are held back for later"
        self._faults.note(self.path, why, follows)

    def _look(self) -> None:
        """Find out whether the file is still where reports look for it."""
        if self._fd is None:
            return
        self._gone = self._place.gone()
        if self._gone is None and not _is_at(self.path, self._fd):
            self._gone = "the file was deleted or replaced"
        if self._gone is not None:
            self._faults.note(self.path, self._gone, f"the run continues without {self._what}")
        elif not self._held and not self._dropped:
            self._faults.mended(self.path)

    def _count_cut(self) -> None:
        """Count the lines that somebody else has cut off the file."""
        self._cut = 0
        if self._fd is None or self._gone is not None:
            return
        with suppress(OSError):
            status = os.fstat(self._fd)
            if stat.S_ISREG(status.st_mode) and status.st_size < self._end:
                written = self._appended - self._held_lines - self._dropped
                self._cut = max(1, written - count_lines(self.path))
                self._faults.note(self.path, "it was cut", f"the run continues without {self._what}")


_BLOCK_BYTES: Final = 1_000_000


def count_lines(file: Path) -> int:
    """Return how many whole lines a file has; OSError if it cannot be read."""
    with file.open("rb", buffering=0) as content:
        return sum(block.count(b"\n") for block in iter(lambda: content.read(_BLOCK_BYTES), b""))


def missing_lines(folder: Path, written: Mapping[str, RequestFile]) -> Reason | None:
    """Return the reason where files of requests have fewer lines than the run wrote; a file of its size is whole."""
    found = {name: _lines_left(folder / name, file) for name, file in written.items()}
    short = {name: lines for name, lines in found.items() if lines < written[name].lines}
    if not short:
        return None
    missing = sum(written[name].lines - lines for name, lines in short.items())
    where = ", ".join(f"{name} has {lines} of {written[name].lines}" for name, lines in short.items())
    return Reason(
        check=MISSING_LINES,
        level=Level.INVALID,
        figure=float(missing),
        limit=0.0,
        text=f"{missing} of {sum(file.lines for file in written.values())} request lines that the run wrote are "
        f"missing from its folder now: {where}",
    )


def _lines_left(file: Path, written: RequestFile) -> int:
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            return 0
        return written.lines if status.st_size == written.size_bytes else count_lines(file)
    except OSError:
        return 0


def write_reasons(totals: RunTotals, unwritten: Mapping[str, str]) -> Iterator[Reason]:
    """Yield what of a run's files is not on the disk: its requests' lines, and other files by name and why."""
    lost = totals.lost_lines.total()
    if lost:
        causes = totals.lost_lines.most_common()
        text = "; ".join(why if len(causes) == 1 else f"{why} ({count})" for why, count in causes)
        yield Reason(
            check=LOST_RECORDS,
            level=Level.INVALID,
            figure=float(lost),
            limit=0.0,
            text=f"{lost} of {totals.ended} request lines could not be written: {text}",
        )
    if unwritten:
        named = ", ".join(f"{name} ({why})" for name, why in sorted(unwritten.items()))
        yield Reason(
            check=UNWRITTEN_FILES,
            level=Level.DEGRADED,
            figure=float(len(unwritten)),
            limit=0.0,
            text=f"not written, or not whole: {named}",
            figures=(),
        )


def with_unwritten(verdict: Verdict, unwritten: Mapping[str, str]) -> Verdict:
    """Return the verdict with what its folder lacks now."""
    others = [reason for reason in verdict.reasons if reason.check != UNWRITTEN_FILES]
    return Verdict.of([*others, *write_reasons(RunTotals(), unwritten)], verdict.doubts)
