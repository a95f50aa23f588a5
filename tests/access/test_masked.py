"""A command is kept without the passwords and keys in it."""

import pytest

from llmload.access.secrecy import masked_command


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("vllm serve m --api-key hunter2 --port 1", "vllm serve m --api-key '***' --port 1"),
        ("vllm serve m --api-key=hunter2 --port 1", "vllm serve m '--api-key=***' --port 1"),
        ("HF_TOKEN=hunter2 vllm serve m", "'HF_TOKEN=***' vllm serve m"),
        ("HF_TOKEN=$TOKEN vllm serve m --api-key $KEY", "HF_TOKEN=$TOKEN vllm serve m --api-key $KEY"),
        ("curl -H 'Authorization: Bearer hunter2' x", "curl -H '***' x"),
        ("sh -c 'vllm serve --api-key hunter2'", "sh -c '***'"),
        ("x https://u:hunter2@host/a=b", "x '***'"),
        ("x hf_AbCdEfGhIjKlMnOp", "x '***'"),
        ("x --api-key 'hunter2", "***"),
        ("vllm  serve 'm'  --max-model-len 8", "vllm  serve 'm'  --max-model-len 8"),
        ("x 'open", "x 'open"),
        ("--set deployment.command='x --token hunter2'", "--set 'deployment.command=***'"),
        (
            "--set prompts.salt_key=a --set engine.api_key_env=KEY",
            "--set prompts.salt_key=a --set engine.api_key_env=KEY",
        ),
        ("x --api-key", "x --api-key"),
    ],
)
def test_a_command_is_shown_without_keys(command: str, shown: str) -> None:
    assert masked_command(command) == shown
    assert masked_command(shown) == shown, "as it is read again"
