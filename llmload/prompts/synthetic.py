"""
Prompts of exact lengths in an engine's tokens, made of the built-in prompts' own sentences, without a tokenizer.

A prompt is a salt, an opening, sentences in their order, and words that fill it up:

    Note WORD WORD ... WORD.
    Continue this text. SENTENCE SENTENCE ... WORD WORD

What each part adds is measured on the engine beforehand (`calibrate`). Sentences end with a full stop, and words are
between spaces, so that tokenizers begin a token at each seam; where one merges text across a seam of words, one of them
is not used, and where it does across sentences, the text is words alone. So lengths add up, whatever the tokenizer.
"""

import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from llmload.errors import DataError, EngineError
from llmload.prompts.conversation import Conversation, Prompt, as_message
from llmload.prompts.lengths import Asked
from llmload.prompts.sources import BUILTIN_FILE

SYNTHETIC: Final = "synthetic"
"""What `prompts.source` says where prompts are made to a length."""
OPENING: Final = "Continue this text."
_PROBE: Final = "Note"
_SENTENCE: Final = re.compile(r"[A-Z][A-Za-z' ,;:()-]{18,158}[a-z]\.")
_WORD: Final = re.compile(r"(?<= )[a-z]{3,7}(?= )")
_CANDIDATES: Final = 128
_WORDS: Final = 32
"""Five bits of a salt each."""
_FEWEST_WORDS: Final = 8
_SALT_BITS: Final = 50
_RUN: Final = 16
"""Sentences that are measured together once each has been measured alone."""

Count = Callable[[str], int]
"""The tokens that the engine counts of a request whose only message, a user's, is this text."""


@functools.cache
def sentences() -> tuple[str, ...]:
    """Return the sentences that prompts are made of, in their order."""
    with BUILTIN_FILE.open(encoding="utf-8") as file:
        texts = [turn for line in file for turn in json.loads(line)["conversations"]]
    parts = (part for text in texts for line in text.split("\n") for part in re.split(r"(?<=[.!?]) ", line))
    return tuple(dict.fromkeys(part for part in parts if _SENTENCE.fullmatch(part)))


@functools.cache
def _candidates() -> tuple[str, ...]:
    """Return their most frequent words, which are the likeliest to be one token each."""
    found = Counter(_WORD.findall(" ".join(sentences())))
    return tuple(sorted(found, key=lambda word: (-found[word], word))[:_CANDIDATES])


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCalibration:
    """What an engine counts of each part of a prompt, in tokens."""

    words: tuple[str, ...]
    """Words of one token each, beside any other of them too."""
    sentence_tokens: tuple[int, ...]
    """Of the first sentences, each after a space; empty where text is words alone."""
    salted_tokens: int
    """Of a request with a salt and the opening."""
    plain_tokens: int
    """Of a request with the opening alone."""
    template_tokens: int
    """Of the chat template around a message."""

    def salt(self, number: int) -> str:
        """Return a number as words, always as many, the lowest bits first."""
        return salt_of_words(number, self.words)

    def text(self, tokens: int, random: Random, *, salted: bool) -> str:
        """
        Return a message with which the engine counts a request's tokens so, its salt and chat template among them.

        DataError where they do not fit.
        """
        least = self.salted_tokens if salted else self.plain_tokens
        room = tokens - least
        if room < 0:
            salt = ", its salt" if salted else ""
            shorter = " (--set prompts.salt=false saves the salt's)" if salted else ""
            raise DataError(
                f"prompts.input_tokens: no prompt has {tokens} tokens: the chat template{salt} and the opening take "
                f"{least}: ask for at least as many, or set min = {least} for lengths of a distribution{shorter}"
            )
        parts, known = [OPENING], self.sentence_tokens
        at = random.randrange(len(known)) if known else 0
        while known and known[at] <= room:
            parts.append(sentences()[at])
            room -= known[at]
            at = (at + 1) % len(known)
        return " ".join([*parts, *random.choices(self.words, k=room)])


@functools.cache
def nominal() -> TextCalibration:
    """Return what is assumed before an engine was asked: a token a word."""
    return TextCalibration(
        words=_candidates()[:_WORDS],
        sentence_tokens=tuple(1 + sentence.count(" ") for sentence in sentences()),
        salted_tokens=0,
        plain_tokens=0,
        template_tokens=0,
    )


def salt_of_words(number: int, words: Sequence[str]) -> str:
    """Return the lowest 50 bits of a number, or a few less, as a line of words: as many for every number."""
    bits = len(words).bit_length() - 1
    chosen = (words[number >> shift & (1 << bits) - 1] for shift in range(0, _SALT_BITS, bits))
    return f"{_PROBE} {' '.join(chosen)}."


def calibrate(count: Count, *, measured: int) -> TextCalibration:
    """
    Return what an engine counts of each part, by counts of texts that no prompt begins with; `measured` sentences.

    EngineError where the engine counts no word as one token.
    """
    head = f"{_PROBE} that this is a measurement.\n{OPENING}"
    base = count(head)

    def added(*parts: str) -> int:
        return count(" ".join([head, *parts])) - base

    words = _words_of_one_token(added)
    plain, salted = count(OPENING), {count(f"{salt_of_words(n, words)}\n{OPENING}") for n in (0, 0x2B992DDFA2324)}
    if len(salted) > 1:
        raise EngineError(
            "this engine's tokenizer counts salts of the same words differently: give --set prompts.salt=false"
        )
    return TextCalibration(
        words=words,
        sentence_tokens=_sentence_tokens(added, measured),
        salted_tokens=max(salted),
        plain_tokens=plain,
        template_tokens=min(map(count, words[:3])) - 1,
    )


def _words_of_one_token(added: Callable[..., int]) -> tuple[str, ...]:
    """Return words that add one token each, before and after each of the others and themselves."""
    words: list[str] = []
    for word in _candidates():
        beside = [word, *(each for other in words for each in (word, other)), word]
        if added(*beside) == len(beside):
            words.append(word)
        if len(words) == _WORDS:
            break
    if len(words) < _FEWEST_WORDS:
        raise EngineError(
            "this engine's tokenizer has no common words of one token each, so no prompt can be made to a length: "
            "remove prompts.input_tokens and shapes"
        )
    return tuple(words)


def _sentence_tokens(added: Callable[..., int], measured: int) -> tuple[int, ...]:
    """Return what each sentence adds; none where several together add another number."""
    chosen = sentences()[:measured]
    tokens = [added(sentence) for sentence in chosen]
    around = [*zip(chosen, tokens, strict=True)]
    for start in range(0, len(around), _RUN):
        run = [*around[start : start + _RUN + 1], *around[:1]]  # each seam, that of the last with the first too
        if added(*(sentence for sentence, _ in run)) != sum(each for _, each in run):
            return ()
    return tuple(tokens)


def conversations_of(
    lengths: Sequence[Asked], seed: int, calibration: TextCalibration, *, salted: bool, template_counts: bool
) -> tuple[Conversation, ...]:
    """Return a prompt of each length; where the chat template does not count, the engine counts it besides."""
    random = Random(f"text {seed}")  # noqa: S311 - repeatable, not secret
    besides = 0 if template_counts else calibration.template_tokens

    def conversation(row: int, asked: int) -> Conversation:
        tokens = asked + besides
        message = as_message("user", calibration.text(tokens, random, salted=salted))
        return Conversation(row, (Prompt(str(row), (message,), asked=Asked(input_tokens=tokens)),))

    return tuple(conversation(row, asked.input_tokens or 0) for row, asked in enumerate(lengths))
