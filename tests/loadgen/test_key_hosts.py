"""The engine's key goes to hosts that the scenario or the command line names, whatever the start form says."""

from collections.abc import Callable
from pathlib import Path

import pytest

from llmload.errors import ConfigError
from llmload.loadgen.preparation import Preparation
from tests.loadgen.browsing import Served, serve
from tests.loadgen.test_web_guard import SCENARIO, parsed
from tests.test_http_get import ok, serving

__all__ = ["serve"]

KEY = 'api_key_env = "ENGINE_KEY"'
FILES_HOST, OTHER = "http://127.0.0.1:9", "https://engine.example/v1"


def asked(tmp_path: Path, form: str, *, key: str = KEY, arguments: tuple[str, ...] = ()) -> list[str]:
    """Return the engine's URLs of a run that the start form asks for, after the command line's."""
    file = tmp_path / "scenario.toml"
    file.write_text(SCENARIO.replace("[model]", f"{key}\n[model]"))
    preparation = Preparation(file)
    options = parsed(file, *arguments)
    preparation.scenario(options)
    options.host = form
    return preparation.scenario(options).engine.base_url


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_KEY", "sk-secret1")


@pytest.mark.parametrize(
    "form",
    [
        "http://evil.example",
        "http://127.0.0.1:10",
        "https://127.0.0.1:9",
        "http://localhost:9",
        "http://127.0.0.1:9.evil.example",
        "http://engine.example/v1",
        "https://engine.example:8443/v1",
    ],
)
def test_a_host_that_the_form_alone_names_gets_no_key(tmp_path: Path, form: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        asked(tmp_path, form, arguments=("--host", OTHER))

    assert "sk-secret1" not in str(refusal.value)
    if "9.evil" not in form:  # which is not a URL at all
        assert "would be sent the key in ENGINE_KEY" in str(refusal.value)
        assert str(refusal.value).endswith(f"restart Locust with --host {form}")


@pytest.mark.parametrize("form", [FILES_HOST, f"{FILES_HOST}/v1", OTHER, "https://engine.example:443", ""])
def test_a_host_that_is_named_elsewhere_gets_it(tmp_path: Path, form: str) -> None:
    assert asked(tmp_path, form, arguments=("--host", OTHER)) == [form or FILES_HOST]


def test_settings_name_hosts_too(tmp_path: Path) -> None:
    arguments = ("--set", f'engine.base_url=["{OTHER}", "http://127.0.0.1:11"]', "--host", OTHER)

    assert asked(tmp_path, "http://127.0.0.1:11", arguments=arguments) == ["http://127.0.0.1:11"]
    with pytest.raises(ConfigError, match="ENGINE_KEY"):
        asked(tmp_path, FILES_HOST, arguments=arguments)


def test_headers_from_the_environment_are_keys(tmp_path: Path) -> None:
    key = 'headers = { "api-key" = { env = "ENGINE_KEY" }, X-Title = "t" }'

    assert asked(tmp_path, FILES_HOST, key=key) == [FILES_HOST]
    with pytest.raises(ConfigError, match=r"^host: http://evil\.example would be sent the key in ENGINE_KEY"):
        asked(tmp_path, "http://evil.example", key=key)
    assert asked(tmp_path, "http://evil.example", key='headers = { X-Title = "t" }') == ["http://evil.example"]


def test_a_variable_that_is_not_set_is_named_with_file_and_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        asked(tmp_path, "", key='headers = { "api-key" = { env = "NO_SUCH_KEY" } }')

    says = "engine.headers.api-key: the environment variable NO_SUCH_KEY is not set: export it and try again"
    assert str(refusal.value) == f"{tmp_path / 'scenario.toml'}: {says}"


@pytest.mark.parametrize(
    "form", ["127.0.0.1:9", "http:/h", "unix:///s", "http://h:99999", "http://me:hunter2@h", "//h"]
)
def test_a_form_with_a_wrong_address_is_refused_by_name(tmp_path: Path, form: str) -> None:
    with pytest.raises(ConfigError, match=r"^command line: engine\.base_url: it") as refusal:
        asked(tmp_path, form)

    assert "hunter2" not in str(refusal.value)


def test_without_a_key_the_form_may_name_any_host(tmp_path: Path) -> None:
    assert asked(tmp_path, "http://127.0.0.1:10", key="") == ["http://127.0.0.1:10"]


def test_a_form_with_another_host_is_refused_and_nothing_is_sent(serve: Callable[..., Served]) -> None:
    served = serve("--set", "engine.api_key_env=ENGINE_KEY", env={"ENGINE_KEY": "sk-secret1"})

    with serving(ok(b"{}")) as stranger:
        answer = served.start_run(host=stranger.url)

    assert not answer["success"]
    assert answer["message"].startswith(f"host: {stranger.url} would be sent the key in ENGINE_KEY")
    assert stranger.heads == []
    assert served.json("llm/state")["run_id"] is None
    assert served.start_run()["success"], "the next form has the host of before"
