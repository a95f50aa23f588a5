"""The login of `--web-login`: one user, whose password comes from the environment, and the pace of wrong attempts."""

from locust.web import WebUI

import hashlib
import hmac
import ipaddress
import math
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from flask import Blueprint, redirect, request, session, url_for
from flask_login import UserMixin, login_user

from llmload.loadgen import locust_compat

USER_ENV: Final = "LLMLOAD_WEB_USER"
PASSWORD_ENV: Final = "LLMLOAD_WEB_PASSWORD"  # noqa: S105 - the variable's name
DEFAULT_USER: Final = "llmload"


class WebUser(UserMixin):  # type: ignore[misc] # flask_login ships no types
    """The user who may log in."""

    def __init__(self, name: str) -> None:
        self.id = name


FREE_ATTEMPTS: Final = 3
LONGEST_WAIT_S: Final = 60.0
FORGET_S: Final = 900.0
MAX_CLIENTS: Final = 1024
"""How many addresses with wrong attempts are remembered; the one that failed longest ago makes room."""
_IPV6_SITE_BITS: Final = 64
"""A client with one IPv6 address has all that begin as it does."""


class Attempts:
    """Wrong attempts by client: after three, each makes the client wait twice as long, from 1 s to a minute."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        """How many clients are remembered."""
        return len(self._failed)

    def wait_s(self, address: str) -> float:
        """Return how long the client must still wait before its next attempt is looked at; 0 if it need not."""
        count, last_s = self._of(_client(address))
        if count < FREE_ATTEMPTS:
            return 0.0
        pause_s = min(LONGEST_WAIT_S, 2.0 ** min(count - FREE_ATTEMPTS, 10))
        return max(0.0, last_s + pause_s - self._clock_s())

    def fail(self, address: str) -> None:
        """Note a wrong attempt."""
        client = _client(address)
        self._failed[client] = self._of(client)[0] + 1, self._clock_s()
        self._failed.move_to_end(client)
        if len(self._failed) > MAX_CLIENTS:
            self._failed.popitem(last=False)

    def forget(self, address: str) -> None:
        """Forget a client's wrong attempts: it has logged in."""
        self._failed.pop(_client(address), None)

    def _of(self, client: str) -> tuple[int, float]:
        count, last_s = self._failed.get(client, (0, -math.inf))
        return (count, last_s) if self._clock_s() - last_s < FORGET_S else (0, last_s)


def _client(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed.packed, _IPV6_SITE_BITS), strict=False))


def install_login(web_ui: WebUI, pages: Blueprint) -> None:
    """
    Let the user log in on Locust's login page, unless the locustfile has set up its own login.

    Without a password in the environment nobody can log in, and the page says why.
    """
    app = locust_compat.app_of(web_ui)
    app.config.update(
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=bool(web_ui.tls_cert),
        SESSION_COOKIE_NAME="llmload_session",  # browsers share cookies between all ports of a host
    )
    if locust_compat.has_own_login(web_ui):
        return
    user, password = os.environ.get(USER_ENV) or DEFAULT_USER, os.environ.get(PASSWORD_ENV)
    app.secret_key = app.secret_key or secrets.token_bytes(32)
    locust_compat.set_login(web_ui, lambda name: WebUser(name) if name == user else None, "./llm/login")
    attempts = Attempts()

    @pages.route("/llm/login", methods=["POST"])
    def llm_login() -> Any:
        fault = _fault(user, password, attempts)
        if fault is None:
            login_user(WebUser(user))
            return redirect(url_for(locust_compat.INDEX))
        session["auth_error"] = fault
        return redirect(url_for(locust_compat.LOGIN))


def _fault(user: str, password: str | None, attempts: Attempts) -> str | None:
    """Return why the login form's user may not enter; it takes as long whatever was given."""
    if not password:
        return f"Nobody can log in: set {PASSWORD_ENV} (and {USER_ENV}, if not {DEFAULT_USER}) where Locust is started."
    address = request.remote_addr or ""
    wait_s = attempts.wait_s(address)
    if wait_s:
        return f"Too many wrong passwords from this address: try again in {math.ceil(wait_s)} s."
    given = request.form.get("username", ""), request.form.get("password", "")
    same = [hmac.compare_digest(_digest(a), _digest(b)) for a, b in zip(given, (user, password), strict=True)]
    if all(same):
        attempts.forget(address)
        return None
    attempts.fail(address)
    return "Wrong user name or password."


def _digest(text: str) -> bytes:
    """Return as many bytes for a text of any length."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
