"""`[engine.headers]`: what is sent, what is refused by name, and that no secret is shown."""

from pathlib import Path
from typing import Any

import pytest

from llmload.errors import ConfigError
from llmload.scenario import Scenario, load_scenario
from llmload.scenario.reading import read_setting, shown_command, to_toml

TABLES: dict[str, dict[str, Any]] = {
    "scenario": {"name": "mine"},
    "engine": {"name": "vllm", "base_url": "http://127.0.0.1:8000"},
    "model": {"name": "m"},
    "load": {"kind": "closed_loop", "users": 1, "requests": 1},
}


def scenario_with(tmp_path: Path, headers: str, *settings: str) -> Scenario:
    file = tmp_path / "x.toml"
    file.write_text(f"{to_toml(TABLES)}[engine.headers]\n{headers}\n", encoding="utf-8")
    return load_scenario(file, dict(map(read_setting, settings)))


def test_values_are_literal_or_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_KEY", "hunter2")
    monkeypatch.setenv("LOGIN", "Basic bWU6aHVudGVyMg==")
    headers = '"api-key" = { env = "AZURE_KEY" }\nAuthorization = { env = "LOGIN" }\nX-Title = "a load test"'

    scenario = scenario_with(tmp_path, headers)

    assert scenario.engine.secret_names == ["AZURE_KEY", "LOGIN"]
    access = scenario.access()
    assert access.headers == {"X-Title": "a load test"}
    assert access.secret_headers == {"api-key": "hunter2", "Authorization": "Basic bWU6aHVudGVyMg=="}
    assert "hunter2" not in repr(scenario) + repr(access) + scenario.model_dump_json()
    assert Scenario.model_validate_json(scenario.model_dump_json()) == scenario, "as a manifest has it"


def test_the_command_line_sets_headers_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K", "hunter2")
    scenario = scenario_with(tmp_path, 'X-Title = "t"', 'engine.headers.api-key={env="K"}', "engine.headers.X-Title=u")

    assert scenario.access().given_headers() == {"X-Title": "u", "api-key": "hunter2"}


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ('Host = "h"', "engine.headers.Host: is a header that llmload sets itself"),
        ('content-length = "3"', "engine.headers.content-length: is a header that llmload sets itself"),
        ('Transfer-Encoding = "chunked"', "sets itself"),
        ('CONNECTION = "close"', "sets itself"),
        ('Accept-Encoding = "gzip"', "sets itself"),
        ('Proxy-Authorization = { env = "K" }', "sets itself"),
        ('X-Request-Id = "1"', "engine.headers sets X-Request-Id, which has the request's id"),
        ('"a b" = "1"', "engine.headers.a b: has U+0020 (space) in its name"),
        ('"a\\r\\nb" = "1"', "has U+000D in its name"),
        ('"api\u2013version" = "1"', "has U+2013 (en dash) in its name"),
        ('"" = "1"', "has no name"),
        ('"a:" = "1"', "has U+003A (colon) in its name"),
        ('x-a = "1"\nX-A = "2"', "engine.headers.X-A: is given twice"),
        ('X-A = "hunter2\\r\\nX-B: 1"', "engine.headers.X-A: has U+000D as character 8"),
        ('X-A = " hunter2"', "begins or ends with white space"),
        ('X-A = "hun\u2013ter2"', "has U+2013 (en dash) as character 4"),
        ('X-A = ""', "engine.headers.X-A: is empty"),
        ("X-A = 5", 'its value is a text in quotes, or { env = "NAME" }'),
        ('X-A = { env = "K", hunter2 = "x" }', "its value is a text in quotes, or"),
        ('X-A = { env = "" }', "engine.headers.X-A: is not the name of an environment variable"),
        ('X-A = { env = "sk-hunter2" }', "is not the name of an environment variable"),
        ('X-A = { env = "$NAME" }', "neither the key nor $NAME"),
        ('X-A = "$NAME"', "variables in a text are not replaced"),
        ('X-A = "${NAME}"', "variables in a text are not replaced"),
        ('api-key = "hunter2"', "engine.headers.api-key: a key does not belong in a file or command"),
        ('Ocp-Apim-Subscription-Key = "hunter2"', "a key does not belong in a file or command"),
        ('cf-access-client-secret = "hunter2"', "a key does not belong in a file or command"),
        ('authorization = "hunter2"', "a key does not belong in a file or command"),
        ('Cookie = "hunter2"', "a key does not belong in a file or command"),
        ('X-Login = "Bearer hunter2"', "a key does not belong in a file or command"),
    ],
)
def test_a_header_that_cannot_be_sent_is_refused_by_name_and_its_value_not_shown(
    tmp_path: Path, headers: str, says: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        scenario_with(tmp_path, headers)

    assert says in str(refusal.value)
    assert "x.toml: " in str(refusal.value)
    assert "ter2" not in str(refusal.value)


def test_a_key_on_the_command_line_is_refused_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^command line: engine\.headers\.api-key: a key does not") as refusal:
        scenario_with(tmp_path, "", "engine.headers.api-key=hunter2")

    assert "hunter2" not in str(refusal.value)


def test_a_key_in_place_of_its_variables_name_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"engine\.api_key_env: is not the name of an environment") as refusal:
        scenario_with(tmp_path, "", "engine.api_key_env=sk-hunter2")

    assert "hunter2" not in str(refusal.value) + shown_command(["--set", "engine.api_key_env=sk-hunter2"])


def test_one_authorization(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="api_key_env and headers both set Authorization"):
        scenario_with(tmp_path, 'authorization = { env = "K" }', "engine.api_key_env=K")


@pytest.mark.parametrize(
    ("name", "says"), [("Host", "sets itself"), ("a b", "has U+0020"), ("true", "input should be")]
)
def test_the_header_of_ids_has_a_good_name(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"client\.request_id_header.*") as refusal:
        scenario_with(tmp_path, "", f"client.request_id_header={name}")

    assert says in str(refusal.value)


@pytest.mark.parametrize("value", ["", "hun\u2013ter2", "hunter2\n", "hunt\u00e9r2"])
def test_a_variable_with_what_no_header_carries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("K", value)

    with pytest.raises(ConfigError, match=r"^engine\.headers\.api-key: the .*environment variable K ") as refusal:
        scenario_with(tmp_path, 'api-key = { env = "K" }').access()

    assert "hun" not in str(refusal.value)


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("--set", "engine.headers.api-key=hunter2"),
        ("--set", 'engine.headers={api-key="hunter2"}'),
        ("--set", "engine.base_url=http://me:hunter2@h"),
        ("--set", 'engine.base_url=["http://h", "http://h?key=hunter2"]'),
        ("--set", "monitor.dcgm_url=http://me:hunter2@h"),
        ("--host", "me:hunter2@h"),
    ],
)
def test_a_secret_in_a_command_is_not_repeated(option: str, word: str) -> None:
    assert "hunter2" not in shown_command([option, word])


@pytest.mark.parametrize(
    "words",
    [
        ["--set", 'engine.headers.api-key={env="K"}'],
        ["--set", "engine.headers.X-Title=a b", "--host", "http://h?api-version=1"],
        ["--set", "engine.label=who?", "--set", "engine.api_key_env=MY_KEY", "--set", "engine.verify_tls=false"],
        ["--prompts", "a@b.jsonl?", "--set", "model.name=a@b"],
    ],
)
def test_a_command_without_secrets_is_shown_whole(words: list[str]) -> None:
    assert "***" not in shown_command(words)
