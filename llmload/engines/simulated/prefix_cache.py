"""The simulated engine's prefix cache: whole blocks of prompt tokens, the least recently used dropped first."""

import hashlib
from collections import OrderedDict
from typing import Final

from llmload.engines.simulated.formulas import BYTES_PER_TOKEN

BLOCK_TOKENS: Final = 16
"""As in vLLM, which shares KV cache between requests in blocks of so many tokens."""


class PrefixCache:
    """
    Remembers the blocks of prompts; a block is known by its tokens and all before them.

    `tokens` is how many it keeps. As in vLLM, a prompt's last token is always computed.
    """

    def __init__(self, tokens: int) -> None:
        self._most_blocks = tokens // BLOCK_TOKENS
        self._blocks: OrderedDict[bytes, None] = OrderedDict()

    def take(self, token_text: bytes) -> int:
        """Return how many of the first tokens are cached, and keep the prompt; `token_text` is 4 bytes a token."""
        size = BLOCK_TOKENS * BYTES_PER_TOKEN
        whole_blocks = len(token_text) // size
        cached, known, digest = 0, True, b""
        for block in range(whole_blocks):
            text = token_text[block * size : (block + 1) * size]
            digest = hashlib.blake2b(text, digest_size=16, key=digest).digest()
            known = known and digest in self._blocks
            cached += known
            self._blocks[digest] = None
            self._blocks.move_to_end(digest)
        while len(self._blocks) > self._most_blocks:
            self._blocks.popitem(last=False)
        never_all = (len(token_text) // BYTES_PER_TOKEN - 1) // BLOCK_TOKENS
        return min(cached, never_all) * BLOCK_TOKENS
