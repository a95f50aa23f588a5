"""Other load generators, each in a separate environment: none is a dependency of llmload."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from benchmarks import ROOT

HOME: Final = ROOT / ".engines" / "peers"
TOKENIZER_WORDS: Final = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A load generator as its makers publish it."""

    name: str
    pins: tuple[str, ...]
    """What pip installs; empty where llmload's own dependencies are enough."""
    dependencies: bool = True
    interpreter: str = sys.executable
    """The Python that its environment is made with."""

    @property
    def home(self) -> Path:
        """Its environment."""
        return HOME / self.name

    @property
    def python(self) -> Path:
        """The interpreter of that environment."""
        return self.home / "bin" / "python" if self.pins else Path(sys.executable)

    def program(self, name: str) -> str:
        """Return the path of a command that it installs."""
        return str(self.python.with_name(name))

    def missing(self) -> str | None:
        """Return what has to be done before it can run; None if nothing."""
        stamp = self.home / "installed.json"
        if not self.pins or (stamp.is_file() and json.loads(stamp.read_text()) == list(self.pins)):
            return None
        return f"not installed: python -m benchmarks.tools.peers install {self.name}"

    def install(self) -> None:
        """Delete its environment and build it again; ClickException without the Python that it needs."""
        interpreter = shutil.which(self.interpreter)
        if interpreter is None:
            raise click.ClickException(f"{self.name} needs {self.interpreter}, which is not on the PATH")
        shutil.rmtree(self.home, ignore_errors=True)
        subprocess.run([interpreter, "-m", "venv", str(self.home)], check=True)
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *([] if self.dependencies else ["--no-deps"]), *self.pins], check=True)
        (self.home / "installed.json").write_text(json.dumps(self.pins))  # last: only a whole installation has it


PEERS: Final = {
    peer.name: peer
    for peer in (
        # Its wheel requires PyTorch and CUDA; its Rust client needs neither.
        Peer(name="sglang-bench", pins=("sglang==0.5.23",), dependencies=False),
        Peer(name="aiperf", pins=("aiperf==0.13.0",)),
        Peer(name="genai-bench", pins=("genai-bench==0.0.5",)),
        Peer(name="guidellm", pins=("guidellm==0.8.1",)),
        Peer(name="inference-perf", pins=("inference-perf==0.7.0",), interpreter="python3.12"),
        Peer(name="evalscope", pins=("evalscope[perf]==1.14.1",)),
        Peer(name="openai-locust", pins=()),
        Peer(name="fasthttp", pins=()),
    )
}


OFFLINE: Final = {"HF_HUB_OFFLINE": "1"}
"""The environment of tools that would ask the hub for the model."""


@dataclass(frozen=True, slots=True)
class PeerClient:
    """What all clients of peers are: one of `PEERS`, in its environment."""

    name: str

    def missing(self) -> str | None:
        """Return what has to be done before it can run; None if nothing."""
        return PEERS[self.name].missing()

    @property
    def program(self) -> str:
        """The path of its command."""
        return PEERS[self.name].program(self.name)


def long_options(options: Mapping[str, object]) -> list[str]:
    """Return the words of options, `--name value`."""
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def seconds_of_ms(value_ms: float | None) -> float | None:
    """Return milliseconds as seconds; None where the tool gives none."""
    return None if value_ms is None else value_ms / 1000


def write_tokenizer() -> Path:
    """Return a folder with a word-by-word tokenizer, for tools that need one; its vocabulary does not matter here."""
    folder = HOME / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    special = ["<unk>", "<s>", "</s>"]
    words = [*special, *(f"word{number}" for number in range(TOKENIZER_WORDS))]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": word, "special": True, **flags} for i, word in enumerate(special)],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<unk>"},
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "model_max_length": 262_144,
        "chat_template": "{% for message in messages %}{{ message['content'] }} {% endfor %}",
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@click.group()
def main() -> None:
    """Other load generators, to be measured beside llmload; each gets an environment under .engines/peers/."""


@main.command()
@click.argument("names", nargs=-1, required=True, type=click.Choice([*PEERS, "all"]))
def install(names: tuple[str, ...]) -> None:
    """Install load generators, once; `all` installs every one."""
    for name in PEERS if "all" in names else names:
        peer = PEERS[name]
        if not peer.pins:
            click.echo(f"{name}: llmload's own dependencies are enough")
        elif peer.missing() is None:
            click.echo(f"{name}: {', '.join(peer.pins)} is installed")
        else:
            click.echo(f"{name}: installing {', '.join(peer.pins)} ...")
            started_s = time.monotonic()
            peer.install()
            click.echo(f"  done in {time.monotonic() - started_s:.0f} s")


@main.command("list")
def list_peers() -> None:
    """Say which load generators can be run."""
    for peer in PEERS.values():
        click.echo(f"{peer.name:14} {peer.missing() or 'ready'}")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.tools.peers")
