"""
A Transformers engine with random weights: says what they take, how fast it decodes, and serves them if it is asked to.

It runs in any Python that has torch and Transformers, without llmload. Each line of its output is a JSON object.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

_MIB = 2**20
_COPIED_MIB = {"cuda": 1024, "cpu": 64}


def load(config: dict[str, Any], form: str, device: str) -> Any:
    """Return a model of that config with random weights in fp32, bf16 or, where bitsandbytes is there, int8."""
    torch, transformers = import_module("torch"), import_module("transformers")
    torch.manual_seed(1)
    shape = transformers.AutoConfig.for_model(**config)
    dtype = torch.float32 if form == "fp32" else torch.bfloat16
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(shape, dtype=dtype)
    if form != "int8":
        return model.eval()
    import_module("bitsandbytes")
    with TemporaryDirectory() as folder:  # weights become 8 bits wide while they are loaded
        model.save_pretrained(folder)
        del model
        if device == "cuda":
            torch.cuda.empty_cache()
        eight = transformers.BitsAndBytesConfig(load_in_8bit=True)
        return transformers.AutoModelForCausalLM.from_pretrained(folder, quantization_config=eight, device_map=device)


def tokens(model: Any, prompt: list[int], count: int) -> Iterator[tuple[int, float]]:
    """Generate greedily, one token at a time; yield each with the clock when it was there."""
    torch = import_module("torch")
    ids, cache = torch.tensor([prompt], device=model.device), None
    with torch.inference_mode():
        for _ in range(count):
            answer = model(input_ids=ids, past_key_values=cache, use_cache=True)
            cache, ids = answer.past_key_values, answer.logits[:, -1:].argmax(-1)
            yield int(ids), time.perf_counter()  # the copy to the host waits for the device


def describe(model: Any, device: str) -> dict[str, Any]:
    """Return what the weights take by PyTorch and by the driver, the memory's speed, and tokens/s of one sequence."""
    torch = import_module("torch")
    stored = [*model.parameters(), *model.buffers()]
    facts: dict[str, Any] = {
        "parameters": sum(part.numel() for part in model.parameters()),
        "stored_bytes": sum(part.numel() * part.element_size() for part in stored),
        "gpu": None,
        "driver_bytes": None,
    }
    if device == "cuda":
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        facts |= {"gpu": torch.cuda.get_device_name(), "total_bytes": total, "driver_bytes": total - free}
    list(tokens(model, [1] * 16, 8))  # kernels are compiled and loaded
    stamps = [stamp for _, stamp in tokens(model, [1] * 16, 33)]
    facts["decode_tokens_per_s"] = (len(stamps) - 1) / (stamps[-1] - stamps[0])
    facts["copy_gb_per_s"] = _copy_gb_per_s(device)
    return facts


def _copy_gb_per_s(device: str) -> float:
    """Bytes read and written by the fastest of some copies, a second."""
    torch = import_module("torch")
    source = torch.ones(_COPIED_MIB[device] * _MIB, dtype=torch.uint8, device=device)
    target, took_s = torch.empty_like(source), []
    for _ in range(8):
        start = time.perf_counter()
        target.copy_(source)
        int(target[-1])
        took_s.append(time.perf_counter() - start)
    return float(2 * source.numel() / min(took_s) / 1e9)


class Handler(BaseHTTPRequestHandler):
    """OpenAI's streamed chat completions, one request at a time, each with a line of the engine's own log."""

    protocol_version = "HTTP/1.1"
    model: Any = None
    disable_nagle_algorithm = True  # a token must not wait for the acknowledgement of the last one
    turn = Lock()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Print nothing: the output has JSON alone."""

    def do_GET(self) -> None:
        """Name the one model."""
        body = json.dumps({"object": "list", "data": [{"id": "random", "object": "model"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """Stream max_tokens tokens, then what was counted."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        count = asked.get("max_tokens") or asked.get("max_completion_tokens") or 16
        prompt = [byte % 250 + 1 for byte in json.dumps(asked["messages"]).encode()][:64]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        stamps = []
        with self.turn:
            for token, stamp in tokens(self.model, prompt, count):
                stamps.append(stamp)
                self._event({"choices": [{"index": 0, "delta": {"content": f" w{token}"}, "finish_reason": None}]})
        usage = {"prompt_tokens": len(prompt), "completion_tokens": count, "total_tokens": len(prompt) + count}
        self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
        self._event({"choices": [], "usage": usage})
        self._chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")
        say({"tokens": count, "tpot_s": (stamps[-1] - stamps[0]) / (count - 1)})

    def _event(self, content: dict[str, Any]) -> None:
        about = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "random"}
        self._chunk(f"data: {json.dumps(about | content)}\n\n".encode())

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


def say(content: dict[str, Any]) -> None:
    """Print a line of JSON at once."""
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Load, describe and, with --serve, serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="a config.json")
    parser.add_argument("--format", choices=["fp32", "bf16", "int8"], default="bf16")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--serve", action="store_true")
    asked = parser.parse_args()
    try:
        model = load(json.loads(asked.config.read_text()), asked.format, asked.device)
    except ModuleNotFoundError as error:
        say({"skipped": f"{asked.format} needs {error.name}"})
        return
    say(describe(model, asked.device))
    if asked.serve:
        Handler.model = model
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        say({"url": f"http://127.0.0.1:{server.server_port}"})
        server.serve_forever()


if __name__ == "__main__":
    main()
