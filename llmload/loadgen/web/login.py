"""The login of `--web-login`: one user, whose password comes from the environment."""

from locust.web import WebUI

import hmac
import os
import secrets
from typing import Any, Final

import gevent
from flask import Blueprint, redirect, request, session, url_for
from flask_login import UserMixin, login_user

from llmload.loadgen import locust_compat

USER_ENV: Final = "LLMLOAD_WEB_USER"
PASSWORD_ENV: Final = "LLMLOAD_WEB_PASSWORD"  # noqa: S105 - the variable's name
DEFAULT_USER: Final = "llmload"
WRONG_PAUSE_S: Final = 1.0


class WebUser(UserMixin):  # type: ignore[misc] # flask_login ships no types
    """The user who may log in."""

    def __init__(self, name: str) -> None:
        self.id = name


def install(web_ui: WebUI, pages: Blueprint) -> None:
    """
    Let the user log in on Locust's login page, unless the locustfile has set up its own login.

    Without a password in the environment nobody can log in, and the page says why.
    """
    if locust_compat.has_own_login(web_ui):
        return
    app = locust_compat.app_of(web_ui)
    user, password = os.environ.get(USER_ENV) or DEFAULT_USER, os.environ.get(PASSWORD_ENV)
    app.secret_key = app.secret_key or secrets.token_bytes(32)
    app.config.update(SESSION_COOKIE_SAMESITE="Lax")
    locust_compat.set_login(web_ui, lambda name: WebUser(name) if name == user else None, "./llm/login")

    @pages.route("/llm/login", methods=["POST"])
    def llm_login() -> Any:
        fault = _fault(user, password)
        if fault is None:
            login_user(WebUser(user))
            return redirect(url_for(locust_compat.INDEX))
        session["auth_error"] = fault
        return redirect(url_for(locust_compat.LOGIN))


def _fault(user: str, password: str | None) -> str | None:
    if not password:
        return f"Nobody can log in: set {PASSWORD_ENV} (and {USER_ENV}, if not {DEFAULT_USER}) where Locust is started."
    given = request.form.get("username", ""), request.form.get("password", "")
    same = [hmac.compare_digest(a.encode(), b.encode()) for a, b in zip(given, (user, password), strict=True)]
    if all(same):
        return None
    gevent.sleep(WRONG_PAUSE_S)  # guessing takes time
    return "Wrong user name or password."
