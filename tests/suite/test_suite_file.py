"""A suite is validated before anything is started; every error names file, key and value."""

import itertools
import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from llmload.access.secrecy import holds_secret
from llmload.cli.main import main
from llmload.cli.scenarios import scenario_file, scenario_text, shipped_cells
from llmload.errors import ConfigError
from llmload.scenario import load_scenario
from llmload.scenario.reading import find_scenario, find_suite, read_setting, shipped_scenarios, shipped_suites
from llmload.suite.file import (
    NAMES,
    TEMPLATES,
    EngineEntry,
    ModelEntry,
    ProtocolEntry,
    Selection,
    SuiteHead,
    Word,
)
from llmload.suite.plan import make_plan
from llmload.suite.run import run_arguments, warmup_arguments
from tests.suite.conftest import WriteSuite


def complaint(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        make_plan(file)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('engine = "simulated"', 'engin = "simulated"'), "engines.quick.engin: unknown key (value 'simulated'); did"),
        (('engine = "simulated"', 'engine = "vlm"'), "engines.quick.engine: input should be 'transformers', 'vllm'"),
        (('engine = "simulated"', ""), "engines.quick: llmload has no template for this engine; give command"),
        (('engine = "simulated"', 'engine = "vllm"\nkind = "container"'), "engines.quick.kind: input should be"),
        (('engine = "simulated"', 'engine = "transformers"\nkind = "docker"'), "engines.quick: llmload has no"),
        (('engine = "simulated"', 'engine = "vllm"\nkind = "docker"'), "needs version, the engine's version in"),
        (
            ('options = ["', 'command = ["{modle}", "'),
            "engines.quick.command: {modle} is not a known name; known: engine",
        ),
        (
            ('"--itl-s", "0.01"', '"--itl-s", 0.01'),
            "engines.quick.options: word 4 is not a text: put quotes around 0.01",
        ),
        (('"0.01", "--itl-s"', '"0.01", "--api-key=x", "--itl-s"'), "name its variable in pass_env"),
        (
            ("options", 'env = { HF_TOKEN = "hf_abc" }\noptions'),
            "a password or key such as HF_TOKEN does not belong in a file",
        ),
        (("options", 'kind = "running"\noptions'), "engines.quick: kind = 'running' needs url"),
        (
            ("options", 'kind = "running"\nurl = "http://a"\noptions'),
            "is not started by the suite, so it cannot have options",
        ),
        (
            ("options", 'headers = { api-key = "x" }\noptions'),
            "engines.quick.headers.api-key: a key does not belong in a",
        ),
        (
            ("options", 'kind = "running"\nurl = "localhost:8000"\noptions'),
            "engines.quick.url: it does not begin with http:// or https://: write http://localhost:8000",
        ),
        (("options", 'url = "http://a"\noptions'), "url belongs to kind = 'running', not 'process'"),
        (
            ("options", "port = 70000\noptions"),
            "engines.quick.port: input should be less than or equal to 65535, got 7",
        ),
        (("[models.one]", '[models."one/two"]'), "a name here has ASCII letters, digits"),
        (
            ("[models.one]", '[models.one]\nids = { slow = "x" }'),
            "models.one.ids: no 'slow' in this file; it has quick",
        ),
        (("[models.one]", "[models.v1.3]\ngpus = 1"), 'a name with a dot in it needs quotes: [models."v1.3"]'),
        (("[models.one]", "[models.one]\ntensor_parallel = 0"), "models.one.tensor_parallel: input should be greater"),
        (('"lima-speed"', '"lima-sped"'), "quick/one/speed: lima-sped: no such scenario file"),
        (('"load.requests=3"', '"load.requsts=3"'), "set: load.requsts: unknown key (value 3); did you mean requests?"),
        (('"load.requests=3"', '"load.requests"'), "set: load.requests: is not KEY=VALUE"),
        (
            ("warmup_requests", 'skip = ["quick/two"]\nwarmup_requests'),
            "suite.skip: 'quick/two' matches no engine/model",
        ),
        (("warmup_requests", 'skip = ["quick"]\nwarmup_requests'), "suite.skip leaves no cell"),
        (("[protocols.speed]", '[protocols.speed]\nmodels = ["two"]'), "protocols.speed.models: no 'two' in this file"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_fault_is_named_with_file_key_and_value(write_suite: WriteSuite, change: tuple[str, str], says: str) -> None:
    text = complaint(write_suite(change))

    assert says in text
    assert all("x-suite.toml: " in line for line in text.splitlines())
    assert "hf_abc" not in text


def test_two_engines_may_not_share_a_column(write_suite: WriteSuite) -> None:
    further = '[engines.a]\nengine = "vllm"\nlabel = "E"\n[engines.b]\nengine = "tgi"\nlabel = "E"\n'

    assert "engines.b.label: 'E' is engines.a's too" in complaint(write_suite(further=further))


def test_an_engine_by_another_name_gets_that_name_for_its_column(write_suite: WriteSuite) -> None:
    plan = make_plan(write_suite(further='[engines.vllm]\n[engines.vllm-eager]\nengine = "vllm"\n'))

    assert [cell.scenario.engine.display_name for cell in plan.cells] == ["quick", "vLLM", "vllm-eager"]


def test_a_template_is_filled_and_words_without_a_value_are_left_out(write_suite: WriteSuite) -> None:
    further = """
[engines.vllm]
options = ["--max-model-len", "4096"]
[engines.tgi]
[engines.transformers]
program = ["venv/bin/transformers", "serve"]
[engines.sglang]
[engines."llama.cpp"]
[models.big]
id = "org/big"
ids = { "llama.cpp" = "big.gguf" }
gpus = 2
tensor_parallel = 2
precision = "fp16"
options = { tgi = ["--disable-custom-kernels"] }
"""
    plan = make_plan(write_suite(further=further))
    commands = {d.name: d.shown_command(8000) for d in plan.deployments}
    listen = "--host 127.0.0.1 --port 8000"

    assert commands["vllm/big"] == (
        f"vllm serve org/big --served-model-name big {listen} --dtype float16 --tensor-parallel-size 2"
        " --max-model-len 4096"
    )
    assert commands["vllm/one"] == f"vllm serve one --served-model-name one {listen} --max-model-len 4096"
    assert commands["tgi/big"] == (
        "text-generation-launcher --model-id org/big --hostname 127.0.0.1 --port 8000 --dtype float16 --num-shard 2"
        " --disable-custom-kernels"
    )
    assert commands["transformers/big"] == f"venv/bin/transformers serve org/big {listen} --dtype float16"
    assert commands["sglang/big"].endswith(
        f"-m sglang.launch_server --model-path org/big --served-model-name big {listen} --dtype float16 --tp 2"
    )
    assert commands["llama.cpp/big"] == f"llama-server --model big.gguf --alias big {listen} --metrics"
    asked = {d.name: d.served_as for d in plan.deployments}
    assert (asked["vllm/big"], asked["tgi/big"], asked["transformers/big"]) == ("big", "org/big", "org/big")


def test_a_container_gets_its_port_its_environment_and_no_secrets_value(
    write_suite: WriteSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HOME", "/cache")
    further = """
[engines.vllm]
kind = "docker"
version = "0.11.0"
pass_env = ["HF_TOKEN"]
env = { VLLM_LOGGING_LEVEL = "DEBUG" }
options = ["--enforce-eager"]
[engines.own]
engine = "other"
kind = "docker"
image = "me/engine:1"
docker_options = []
container_port = 9
command = ["--weights", "{id}", "--listen", "{host}:{port}"]
"""
    plan = make_plan(write_suite(("[models.one]", '[models.one]\nid = "org/one"'), further=further))
    vllm, own = plan.deployments[1:]

    assert vllm.shown_command(8000) == (
        f"docker run --rm --name {vllm.container} --publish 127.0.0.1:8000:8000 --env HF_TOKEN"
        " --env VLLM_LOGGING_LEVEL=DEBUG --gpus all --ipc host -v /cache:/root/.cache/huggingface"
        " vllm/vllm-openai:v0.11.0 --model org/one --served-model-name one --host 0.0.0.0 --port 8000 --enforce-eager"
    )
    assert vllm.stop_command == ["docker", "stop", "-t", "30", vllm.container]
    assert own.shown_command(8000) == (
        f"docker run --rm --name {own.container} --publish 127.0.0.1:8000:9 me/engine:1"
        " --weights org/one --listen 0.0.0.0:9"
    )
    assert vllm.container != own.container


def test_a_variable_that_is_not_set_is_named_before_anything_is_started(
    write_suite: WriteSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLMLOAD_NO_SUCH", raising=False)
    plan = make_plan(write_suite(("options", 'pass_env = ["LLMLOAD_NO_SUCH"]\noptions')))

    with pytest.raises(ConfigError, match="pass_env: the environment variable LLMLOAD_NO_SUCH is not set"):
        plan.check_environment({"quick/one/speed"})
    plan.check_environment(set())


def test_an_engines_headers_reach_its_cells_and_its_warm_up_by_name_alone(
    write_suite: WriteSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    further = """
[engines.gateway]
kind = "running"
engine = "other"
url = "http://127.0.0.1:9"
headers = { "api-key" = { env = "GATEWAY_KEY" }, X-Title = "a test" }
"""
    plan = make_plan(write_suite(further=further))
    [gateway] = [each for each in plan.deployments if each.engine == "gateway"]
    monkeypatch.delenv("GATEWAY_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"engine\.headers\.api-key: the environment variable GATEWAY_KEY is not set"):
        plan.check_environment({gateway.cells[0].name})

    monkeypatch.setenv("GATEWAY_KEY", "hunter2")
    plan.check_environment({gateway.cells[0].name})
    cell = run_arguments(gateway.cells[0], "http://127.0.0.1:9", Path("out"), None)
    warm_up = warmup_arguments(gateway, "http://127.0.0.1:9", Path("out"), Path("prompts"), 2)
    for arguments in (cell, warm_up):
        settings = [word for option, word in itertools.pairwise(arguments) if option == "--set"]
        scenario = load_scenario(find_scenario("lima-speed"), dict(map(read_setting, settings)), is_whole=False)
        assert scenario.access().given_headers() == {"api-key": "hunter2", "X-Title": "a test"}
        assert "hunter2" not in "".join(arguments)


def test_a_changed_definition_changes_the_fingerprint_and_an_equal_one_does_not(
    write_suite: WriteSuite,
) -> None:
    def fingerprint(*changes: tuple[str, str]) -> str:
        plan = make_plan(write_suite(*changes))
        return plan.fingerprint(plan.deployments[0], plan.cells[0])

    assert fingerprint() == fingerprint()
    assert fingerprint(("0.01", "0.02")) != fingerprint()
    assert fingerprint(("requests=3", "requests=2")) != fingerprint()


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [("vllm", 2), ("vllm/m", 2), ("vllm/*/speed", 1), ("*/m/throughput", 1), ("v*", 2), ("*", 2)],
)
def test_cells_are_chosen_by_pattern(pattern: str, chosen: int) -> None:
    selection = Selection([pattern], "--only")

    assert sum(map(selection.has, ("vllm/m/speed", "vllm/m/throughput"))) == chosen
    selection.check_all_matched()


def test_the_reference_matrix_is_complete_and_starts_its_scenarios_commands() -> None:
    plan = make_plan(find_suite("reference-suite"))

    assert {f"reference/{cell.engine}-{cell.model}-{cell.protocol}" for cell in plan.cells} <= shipped_cells().keys()
    assert len(plan.cells) == 20
    for deployment in plan.deployments:
        for cell in deployment.cells:
            scenario = load_scenario(scenario_file(f"reference/{cell.engine}-{cell.model}-{cell.protocol}"))
            said = scenario.deployment
            assert deployment.start_command(deployment.entry.port or 0) == str(said.command).split()
            assert deployment.entry.version in {None, said.engine_version}
            assert scenario.engine.base_url == [f"http://127.0.0.1:{deployment.entry.port}"]
            assert scenario.load == cell.scenario.load
            assert (said.tensor_parallel is None) == (cell.engine == "transformers")


def test_a_cell_of_a_shipped_suite_is_a_scenario_with_every_word_of_the_reference() -> None:
    assert (
        scenario_text("reference/tgi-llama2-70b-chat-throughput")
        == """\
# A cell of reference-suite.toml: tgi/llama2-70b-chat/throughput
[tool.locust]
locustfile = "locustfiles/chat.py"

[scenario]
name = "tgi-llama2-70b-chat-throughput"
description = "llama2-70b-chat on tgi, 2 x A100 80 GB: requests/min at 16 users"
seed = 42
protocol = "throughput"

[engine]
name = "tgi"
base_url = "http://127.0.0.1:8080"
api = "tgi-generate"

[model]
name = "llama2-70b-chat"
served_as = "meta-llama/Llama-2-70b-chat-hf"
catalogue = "llama-2-70b"

[deployment]
gpu = "A100-SXM4-80GB"
gpus = 2
tensor_parallel = 2
precision = "fp16"
engine_version = "1.0.1"
command = "text-generation-launcher --model-id meta-llama/Llama-2-70b-chat-hf --dtype float16 --num-shard 2\
 --disable-custom-kernels --port 8080 --hostname 127.0.0.1"

[prompts]
source = "lima"
repeat = "salted"

[request]
max_tokens = 512
temperature = 0.0

[load]
kind = "closed_loop"
warmup_s = 30.0
duration_s = 330.0
users = 16
"""
    )


def test_a_command_may_begin_with_the_scenarios_own(write_suite: WriteSuite, tmp_path: Path) -> None:
    scenario = tmp_path / "own.toml"
    text = scenario_text("reference/vllm-vicuna-7b-v1.3-speed")
    scenario.write_text(re.sub(r"^command = .*", 'command = "serve --quick"', text, flags=re.MULTILINE))
    own = 'command = ["{scenario_command}", "--port", "{port}"]'
    plan = make_plan(write_suite(('"lima-speed"', f'"{scenario}"'), further=f"[engines.own]\n{own}"))

    assert plan.deployments[-1].shown_command(9) == "serve --quick --port 9"


def test_a_suite_is_not_a_scenario() -> None:
    assert set(shipped_suites()) == {"demo-suite", "reference-suite"}
    assert not set(shipped_suites()) & set(shipped_scenarios())
    with pytest.raises(ConfigError, match="no shipped suite of that name; "):
        find_suite("sed-suite")


DOCS = (Path(__file__).parents[2] / "docs" / "suite.md").read_text(encoding="utf-8")


def test_the_documented_file_is_valid(tmp_path: Path) -> None:
    example, *_ = re.findall(r"^```toml\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)
    file = tmp_path / "my-suite.toml"
    file.write_text(example, encoding="utf-8")

    plan = make_plan(file)

    assert len(plan.cells) == 12
    assert plan.cells[0].scenario.deployment.gpu == "A100-SXM4-80GB"


def test_every_template_and_every_key_is_documented() -> None:
    def shown(words: Sequence[Word]) -> str:
        return " ".join(word if isinstance(word, str) else f"[{' '.join(word)}]" for word in words)

    for name, template in TEMPLATES.items():
        assert f"| `{name}` | `{shown([*template.program, *template.arguments])}` |" in DOCS
        assert template.image is None or f"`{template.image}`" in DOCS
    assert all(name in DOCS for name in NAMES)
    for table in (SuiteHead, EngineEntry, ModelEntry, ProtocolEntry):
        for key in table.model_fields:
            assert f"`{key}`" in DOCS, f"{table.__name__}.{key}"


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_the_cpu_suite_starts_the_engines_that_are_installed(engine: str) -> None:
    plan = make_plan(Path(__file__).parents[2] / "benchmarks" / "cpu-suite.toml")
    deployments = [deployment for deployment in plan.deployments if deployment.engine == engine]

    assert len(plan.cells) == 8
    assert all(d.start_command(1)[0].startswith(f".engines/{engine}/bin/") for d in deployments)
    assert {d.loaded for d in deployments} == {".engines/models/smollm2", ".engines/models/tiny"}


@pytest.mark.parametrize(
    "word",
    [
        *(
            "--api-key",
            "--api_key=x",
            "--apiKey=x",
            "--API-KEY",
            "-e HF_TOKEN=x",
            "OPENAI_API_KEY=x",
            "--env=HF_TOKEN=x",
        ),
        *("-eHF_TOKEN=x", "--hf-token", "--db-passwd", "--secret", "X_TOKEN2=a", "Authorization: Bearer x"),
        *("--api-key x", "--auth=u:p", "--password", "--db-pwd=x", "--pw=x", "--passcode=1", "--pat=x", "--jwt=x"),
        *(
            "PGPASSWORD=x",
            "PGPASS=x",
            "--cookie=x",
            "Cookie: a=b",
            "authorization=Basic abc",
            "--secrets=x",
            "--api-keys=a",
        ),
        *("AWS_ACCESS_KEY_ID=x", "https://hf_abc@huggingface.co", "https://:word@host", "postgres://u:p@h/db?x=y"),
        *("sk-abcdefghijklmnop", "hf_AbCdEfGhIjKlMnOp", "ghp_aaaaaaaaaaaaaaaaaaaa", "AKIAIOSFODNN7EXAMPLE"),
        *(
            "-----BEGIN PRIVATE KEY-----",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.x",
            "export HF_TOKEN=x; vllm serve",
        ),
        *("--header=X-Api-Key: abc", '{"api_key": "x"}', "http://user:word@host/"),
    ],
)
def test_a_password_or_key_in_a_command_is_refused_by_any_spelling_and_not_shown(
    word: str, write_suite: WriteSuite
) -> None:
    file = write_suite(('options = ["', f"options = ['{word}', 'hunter2', \""))

    assert "a password or key in a command would appear in logs" in complaint(file)
    assert "hunter2" not in complaint(file)


@pytest.mark.parametrize(
    "word",
    [
        *(
            "--max-num-batched-tokens",
            "--tokenizer",
            "--max-tokens=3",
            "--ssl-keyfile",
            "--eos-token",
            "HF_TOKEN",
            "-e",
        ),
        *("--tokenizer x", "--max-num-batched-tokens 8", "--token-budget=4", "--enable-prefix-caching", "--path=/a"),
        *("--num-key-value-heads=8", "--skip-tokenizer-init", "--chat-template=/x/key.jinja", "a@b", "--compass=x"),
        *(
            "--keyspace",
            "http://127.0.0.1:8000",
            "http://127.0.0.1:8000/a@b",
            "registry/x@sha256:0123456789abcdef",
            "--monkey=x",
            "meta/llama:1.0",
            "{id}",
        ),
    ],
)
def test_other_words_may_be_in_a_command(word: str) -> None:
    assert not holds_secret(word)


@pytest.mark.parametrize("word", ["x" * 250_000, "a." * 100_000, "-eyJ00000000" * 20_000, "--" + "a-" * 100_000])
def test_a_long_word_is_looked_through_soon(word: str) -> None:
    began_s = time.process_time()

    assert not holds_secret(word)
    assert holds_secret(f"{word} 1api_key=x")
    assert time.process_time() - began_s < 5


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('label = "a\\u001b[31m"', "engines.quick.label: it has U+001B"),
        ('label = "a\\nb"', "engines.quick.label: it has U+000A"),
        ('version = "-v"', "engines.quick.version: it begins with '-'"),
        ('kind = "docker"\nimage = "--privileged"', "engines.quick.image: it begins with '-'"),
        ('kind = "docker"\nimage = "https://u:hunter2@registry/x"', "engines.quick.image: a password or key does not"),
        ('env = { "A=B" = "x" }', "engines.quick.env"),
        ('env = { "" = "x" }', "engines.quick.env"),
        ('env = { A = "a\\u0000b" }', "engines.quick.env: it has U+0000"),
        ('env = { URL = "https://u:hunter2@host" }', "engines.quick.env: a password or key"),
        ('env = { A = "--api-key hunter2" }', "engines.quick.env: a password or key"),
        ('pass_env = ["A=hunter2"]', "engines.quick.pass_env.0: is not the name of an environment variable"),
        ('pass_env = ["$A"]', "engines.quick.pass_env.0: is not the name of an environment variable"),
        ('set = ["deployment.command=\\"x --api-key hunter2\\""]', "engines.quick.set.0: a password or key does not"),
        ('set = ["model.name=\\u0007"]', "engines.quick.set.0: it has U+0007"),
        ('command = ["x\\u0000"]', "engines.quick.command: it has U+0000"),
        ("port = 0", "engines.quick.port: input should be greater than or equal to 1, got 0"),
        ("port = -1", "engines.quick.port: input should be greater than or equal to 1"),
        ('port = "http"', "engines.quick.port: input should be a valid integer"),
        (
            'kind = "docker"\nengine = "vllm"\ncontainer_port = 99999',
            "engines.quick.container_port: input should be less",
        ),
    ],
)
def test_what_becomes_a_word_of_a_command_a_row_or_a_log_is_refused_by_key(
    table: str, says: str, write_suite: WriteSuite
) -> None:
    engine = "" if "engine = " in table else 'engine = "simulated"\n'
    text = complaint(write_suite(('engine = "simulated"\n', engine), ("options = [", f"{table}\noptions = [")))

    assert says in text
    assert "hunter2" not in text


def test_control_characters_of_a_key_do_not_reach_the_terminal(write_suite: WriteSuite) -> None:
    file = write_suite(("options = [", '"\\u0000\\u000b\\u001b[31m" = 1\noptions = ['))

    said = CliRunner().invoke(main, ["suite", str(file)])

    assert said.exit_code == 2
    assert said.stderr.startswith(f"llmload: {file}: engines.quick.\\x00\\x0b\\x1b[31m: unknown key")
    assert len(said.stderr.splitlines()) == 1


def test_a_command_of_lines_may_be_given(write_suite: WriteSuite) -> None:
    make_plan(
        write_suite(("options = [", 'env = { A = "a\\nb" }\ncommand = ["sh", "-c", "echo\\n\\techo"]\noptions = ['))
    )


def test_a_key_in_the_command_of_a_scenario_is_neither_kept_nor_passed_on(
    write_suite: WriteSuite, tmp_path: Path
) -> None:
    scenario = tmp_path / "s.toml"
    scenario.write_text(
        find_scenario("lima-speed").read_text() + '\n[deployment]\ncommand = "x --api-key hunter2 --port 1"\n'
    )

    assert load_scenario(scenario).deployment.command == "x --api-key '***' --port 1"
    file = write_suite(("lima-speed", "s.toml"), ("options = [", 'command = ["{scenario_command}"]\noptions = ['))
    assert "the scenario's deployment.command has a password or key: name its variable in pass_env" in complaint(file)


@pytest.mark.parametrize("name", ["..", ".hidden", "-x", "a/b", "a b", "\\u001b[31m", "\\u0661"])
def test_names_are_names(name: str, write_suite: WriteSuite) -> None:
    assert "a name here has ASCII letters" in complaint(write_suite(("[models.one]", f'[models."{name}"]')))


def test_a_name_fits_into_a_path(write_suite: WriteSuite) -> None:
    file = write_suite(("[models.one]", f"[models.{'x' * 81}]"))

    assert "it has 81 characters, and becomes part of a path" in complaint(file)
