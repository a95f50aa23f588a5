"""
The simulated engine's two tokenizers, whose counts can be checked by hand.

    bytes   4 UTF-8 bytes are a token, and so are the last 1 to 3
    words   a word with the space before it is a token for each 6 letters or part of them, a digit and any other
            character one each; but where a word ends in a vowel and the next begins with one, the pieces on both sides
            of the space are a single token ("more eggs"), unless the first of them is already part of such a token.
            So two texts together may have a token less than apart, as with BPE
"""

import functools
import hashlib
import re
from typing import Final, Literal

BYTES_PER_TOKEN: Final = 4
"""Of each token, as the prefix cache has it."""
Tokenizer = Literal["bytes", "words"]
_PIECE_LETTERS: Final = 6
_PARTS: Final = re.compile(r" ?[^\W\d_]+|.", re.DOTALL)
_VOWELS: Final = frozenset("aeiou")


def token_bytes(text: str, tokenizer: Tokenizer = "bytes") -> bytes:
    """Return the text as 4 bytes a token, the last one padded, or those of each token's hash."""
    if tokenizer == "words":
        return b"".join(map(_hashed, words_of(text)))
    encoded = text.encode("utf-8", "surrogatepass")
    return encoded + b"\0" * (-len(encoded) % BYTES_PER_TOKEN)


def count_tokens(text: str, tokenizer: Tokenizer = "bytes") -> int:
    """Return the tokens of a text."""
    return len(token_bytes(text, tokenizer)) // BYTES_PER_TOKEN


def words_of(text: str) -> list[str]:
    """Return the tokens of a text by words; together they are the text."""
    tokens: list[str] = []
    open_vowel = False
    for part in _PARTS.findall(text):
        pieces = _pieces(part)
        merges = open_vowel and part[0] == " " and part[1:2] in _VOWELS
        if merges:
            tokens[-1] += pieces[0]
        tokens += pieces[merges:]
        open_vowel = part[-1] in _VOWELS and not (merges and len(pieces) == 1)
    return tokens


@functools.lru_cache(maxsize=4096)
def _pieces(part: str) -> list[str]:
    first = _PIECE_LETTERS + (part[0] == " " and len(part) > 1)
    return [part[:first], *(part[at : at + _PIECE_LETTERS] for at in range(first, len(part), _PIECE_LETTERS))]


@functools.lru_cache(maxsize=65536)
def _hashed(token: str) -> bytes:
    return hashlib.blake2b(token.encode("utf-8", "surrogatepass"), digest_size=BYTES_PER_TOKEN).digest()
