"""Who may use the web UI under `--web-login`: one user, whose password comes from the environment."""

from locust.web import WebUI

import hmac
import os
import secrets
from typing import Any, Final

import gevent
from flask import Blueprint, redirect, request, session, url_for
from flask_login import UserMixin, login_user  # type: ignore[import-untyped] # it ships no types

USER_ENV: Final = "LLMLOAD_WEB_USER"
PASSWORD_ENV: Final = "LLMLOAD_WEB_PASSWORD"  # noqa: S105 - the variable's name
DEFAULT_USER: Final = "llmload"
WRONG_PAUSE_S: Final = 1.0


class WebUser(UserMixin):  # type: ignore[misc] # the same
    """The one who may log in."""

    def __init__(self, name: str) -> None:
        self.id = name


def install(web_ui: WebUI, pages: Blueprint) -> None:
    """
    Let the user log in on Locust's login page; a locustfile that has set up its own login keeps that.

    Without a password in the environment nobody can log in, and the page says why.
    """
    manager: Any = web_ui.login_manager
    if web_ui.app is None or manager._user_callback is not None:
        return
    user, password = os.environ.get(USER_ENV) or DEFAULT_USER, os.environ.get(PASSWORD_ENV)
    web_ui.app.secret_key = web_ui.app.secret_key or secrets.token_bytes(32)
    web_ui.app.config.update(SESSION_COOKIE_SAMESITE="Lax")
    web_ui.auth_args |= {"username_password_callback": "./llm/login"}
    manager.user_loader(lambda name: WebUser(name) if name == user else None)

    @pages.route("/llm/login", methods=["POST"])
    def llm_login() -> Any:
        fault = _fault(user, password)
        if fault is None:
            login_user(WebUser(user))
            return redirect(url_for("locust.index"))
        session["auth_error"] = fault
        return redirect(url_for("locust.login"))


def _fault(user: str, password: str | None) -> str | None:
    if not password:
        return f"Nobody can log in: set {PASSWORD_ENV} (and {USER_ENV}, if not {DEFAULT_USER}) where Locust is started."
    given = request.form.get("username", ""), request.form.get("password", "")
    same = [hmac.compare_digest(a.encode(), b.encode()) for a, b in zip(given, (user, password), strict=True)]
    if all(same):
        return None
    gevent.sleep(WRONG_PAUSE_S)  # guessing takes time
    return "Wrong user name or password."
