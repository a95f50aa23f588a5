"""What scripts, styles and frames each page may have: its Content-Security-Policy."""

import re
import secrets
from typing import Final

from flask import Response, request

from llmload.loadgen import locust_compat

OWN_PAGE: Final = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
_LOCUSTS_PAGE: Final = (
    "default-src 'self'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)
"""Its styles are made by script, in elements without a nonce."""
_ITS_SCRIPTS: Final = re.compile(
    r"<script(?= type=\"module\" crossorigin>)|<script(?=>\s*window\.(?:templateArgs|authArgs) = )"
)
"""The two scripts that its HTML has: the module (inline in a report), and the values that the module reads."""


def add_policy(response: Response) -> Response:
    """Let a page of Locust's run its own scripts and no others, wherever a name or an error text brought them from."""
    if response.mimetype != "text/html" or request.endpoint not in locust_compat.PAGES or response.direct_passthrough:
        return response
    nonce = secrets.token_urlsafe(16)
    page = _ITS_SCRIPTS.sub(f'<script nonce="{nonce}"', response.get_data(as_text=True), count=2)
    response.set_data(page)
    response.headers["Content-Security-Policy"] = _LOCUSTS_PAGE.format(nonce=nonce)
    return response
