"""Which chunks of an answer are reasoning: by the field that has their text, or by `<think>` tags in the text."""

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from llmload.client.errors import attempt_error
from llmload.record import ErrorType

MAX_TAGGED_CHARACTERS: Final = 4 << 20
"""The longest text that is kept to find tags in it; a longer answer fails."""
_TAG: Final = re.compile("<(/?)think>")
Span = tuple[int, int]


def answer_spans(text: str) -> Iterator[Span]:
    """
    Yield begin and end of each part of a text that is neither reasoning nor a tag, in characters.

    Reasoning is between `<think>` and `</think>`, or the text's end; where the first tag is `</think>`, it is all
    before that, since chat templates of some models put `<think>` into the prompt.
    """
    tags = list(_TAG.finditer(text))
    thinks = bool(tags) and tags[0][1] == "/"
    begin = 0
    for tag in tags:
        if not thinks:
            yield begin, tag.start()
        begin, thinks = tag.end(), not tag[1]
    if not thinks:
        yield begin, len(text)


def split_reasoning(text: str) -> tuple[str, str]:
    """Return a whole text's reasoning and its answer, both without tags and without space around them."""
    spans = list(answer_spans(text))
    thought = (text[begin:end] for (_, begin), (end, _) in pairwise([(0, 0), *spans, (len(text), len(text))]))
    answer = "".join(text[begin:end] for begin, end in spans)
    return _TAG.sub("", "".join(thought)).strip(), answer.strip()


class TaggedText:
    """The text of each chunk of one answer, for the tags in it, which may be cut anywhere."""

    __slots__ = ("_length", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0

    def take(self, piece: str) -> None:
        """Take the content of the next chunk, empty if it has none; AttemptError where an answer is too long."""
        self._length += len(piece)
        if self._length > MAX_TAGGED_CHARACTERS:
            message = f"an answer of more than {MAX_TAGGED_CHARACTERS} characters is not taken"
            raise attempt_error(ErrorType.TOO_LARGE, message)
        self._pieces.append(piece)

    def answers(self) -> npt.NDArray[np.bool_]:
        """
        Return which chunks are the answer's: those that have a character of it.

        White space before its first other character is not yet the answer.
        """
        text = "".join(self._pieces)
        counts = np.zeros(len(text) + 1, dtype=np.int64)
        for begin, end in _without_leading_space(text, list(answer_spans(text))):
            counts[begin + 1 : end + 1] = 1
        until = np.cumsum(counts)
        ends = np.fromiter(accumulate(map(len, self._pieces), initial=0), np.int64, len(self._pieces) + 1)
        found: npt.NDArray[np.bool_] = until[ends[1:]] > until[ends[:-1]]
        return found


def _without_leading_space(text: str, spans: Sequence[Span]) -> Iterator[Span]:
    begun = False
    for begin, end in spans:
        start = begin if begun else end - len(text[begin:end].lstrip())
        begun = begun or start < end
        yield start, end
