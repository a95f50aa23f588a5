"""Files that cannot be a scenario: one line says so, soon, whatever is in them."""

import os
import time
from pathlib import Path

import pytest

from llmload.errors import ConfigError
from llmload.scenario.reading import MAX_TOML_BYTES, load_scenario, read_toml, read_value, scenario_folder

DEMO = (scenario_folder() / "demo.toml").read_bytes()
TOO_DEEP = "nested more than 32 deep"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"x = " + b"[" * 50_000, TOO_DEEP, id="lists"),
        pytest.param(b"x = " + b"[" * 40 + b"]" * 40, TOO_DEEP, id="40-lists"),
        pytest.param(b"x = " + b"{a=" * 50_000, TOO_DEEP, id="tables"),
        pytest.param(b".".join([b"a"] * 100_000) + b" = 1", TOO_DEEP, id="dotted-key"),
        pytest.param(b".".join([b'"a"'] * 60_000) + b" = 1", TOO_DEEP, id="quoted-dotted-key"),
        pytest.param(b"[" + b" . ".join([b"a"] * 60_000) + b"]", TOO_DEEP, id="header"),
        pytest.param(b"x = {" + b".".join([b"a"] * 60_000) + b" = 1}", TOO_DEEP, id="key-within-a-table"),
        pytest.param(b"x = " + b"9" * 5_000, "an integer of more than 4300 digits", id="digits"),
        pytest.param(b'x="' + b'"""\\' * 60_000, "is not TOML", id="open-texts"),
        pytest.param(b"'''\\\"" * 50_000, "is not TOML", id="quotes-in-texts"),
        pytest.param(b'"\\' * 120_000, "is not TOML", id="escapes"),
        pytest.param(b"".join(b"k%d=1\n" % i for i in range(20_000)), "more faults", id="unknown-keys"),
        pytest.param(b"x" * 250_000, "is not TOML", id="long-word"),
        pytest.param(b"x = 1\n" + b"a." * 120_000, TOO_DEEP, id="long-key-without-value"),
        pytest.param(b"\x1b[31m = 1\n", "is not TOML", id="control-characters"),
        pytest.param(b'[scenario]\n"c\\u001b\\nd" = 2', r"scenario\.c\\x1b\\nd: unknown key", id="odd-keys"),
        pytest.param(b"#" * (MAX_TOML_BYTES + 1), "larger than 256 KiB", id="size"),
        pytest.param(DEMO.decode().encode("utf-16"), "is UTF-16: convert it to UTF-8", id="utf-16"),
        pytest.param(b"\x1f\x8b\x08", "is compressed with gzip", id="gzip"),
        pytest.param(b"# fine\nx = '\xe9'", r"is not UTF-8 text \(line 2, byte 0xe9\)", id="latin-1"),
        pytest.param(b"x = '\0'", "is not TOML", id="nul"),
    ],
)
def test_a_file_that_cannot_be_a_scenario_is_refused_soon(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(content)
    began_s = time.process_time()

    with pytest.raises(ConfigError, match=says) as refused:
        load_scenario(file)

    assert time.process_time() - began_s < 5
    assert str(refused.value).startswith(str(file))
    assert len(str(refused.value)) < 10_000
    assert str(refused.value).replace("\n", "").isprintable()


def test_more_stages_than_a_run_can_have_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    stages = "{users = 1, duration_s = 1}, " * 5_000
    head = DEMO.decode().partition("[load]")[0]
    file.write_text(f"{head}[load]\nkind = 'staged'\nstages = [{stages}]")

    with pytest.raises(ConfigError, match=r"load\.stages: list should have at most 1000 items") as refused:
        load_scenario(file)

    assert len(str(refused.value)) < 1_000


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "mark"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["unix", "windows"])
def test_a_byte_order_mark_and_the_kind_of_line_end_change_nothing(tmp_path: Path, mark: bytes, newline: bytes) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(mark + DEMO.replace(b"\n", newline))

    assert load_scenario(file) == load_scenario(scenario_folder() / "demo.toml")


@pytest.mark.parametrize("text", ["a." * 200 + "b", "e.g. " * 100], ids=["name", "sentence"])
@pytest.mark.parametrize("quote", ['"', "'", '"""', "'''"])
def test_dots_in_a_text_do_not_count_as_depth(tmp_path: Path, text: str, quote: str) -> None:
    file = tmp_path / "x.toml"
    file.write_text(f"# {text}\nx = {quote}{text}{quote} # {text}\n")

    assert read_toml(file) == {"x": text}


def test_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, what in (("", "a directory"), ("pipe", "no regular file")):
        with pytest.raises(ConfigError, match=what):
            read_toml(tmp_path / name)


def test_a_setting_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(ConfigError, match=f"command line: --set: .*{TOO_DEEP}"):
        read_value("[" * 5_000)


def test_a_bare_sentence_is_a_text_however_many_dots_it_has() -> None:
    assert read_value("e.g. " * 100) == ("e.g. " * 100).strip()
