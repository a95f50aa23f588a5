"""The deployment files agree with the repository and each other: paths, options of Locust, ports."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmload.loadgen.master import ABORT_REPLY_S
from llmload.loadgen.options import DRAIN_ON_SIGTERM_S
from llmload.loadgen.session import ABORT_GRACE_S
from llmload.loadgen.worker import SIGTERM_GRACE_S
from llmload.scenario import load_scenario

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "deploy" / "kubernetes"
WRITING_S = 2.0
"""For summary and report of a run of ordinary length."""
WORKDIR = "/llmload/"


def objects() -> list[dict[str, Any]]:
    named = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    return [each for name in named for each in yaml.safe_load_all((KUBERNETES / name).read_text())]


def job(name: str) -> dict[str, Any]:
    (found,) = (each for each in objects() if each["kind"] == "Job" and each["metadata"]["name"] == name)
    spec: dict[str, Any] = found["spec"]
    return spec


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = job(name)["template"]["spec"]
    return spec


def argument(name: str, option: str) -> str:
    (found,) = (word for word in pod(name)["containers"][0]["args"] if word.startswith(f"--{option}="))
    return str(found).partition("=")[2]


def test_the_image_copies_existing_files_that_are_not_ignored() -> None:
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    copied = [source for line in lines if line.startswith("COPY") for source in line.split()[1:-1]]
    let_in = {
        line[1:] for line in (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"
    }

    assert copied
    assert all((ROOT / source).exists() for source in copied)
    assert set(copied) == let_in


def test_the_scenario_of_the_cluster_is_valid() -> None:
    scenario = load_scenario(KUBERNETES / "scenario.toml")

    environment = {each["name"] for each in pod("llmload-workers")["containers"][0]["env"]}
    assert scenario.engine.api_key_env in environment
    assert (ROOT / "locustfiles" / "chat.py").is_file()
    assert 'locustfile = "locustfiles/chat.py"' in (KUBERNETES / "scenario.toml").read_text()


def test_master_and_workers_find_each_other() -> None:
    (service,) = (each for each in objects() if each["kind"] == "Service")

    assert argument("llmload-workers", "master-host") == service["metadata"]["name"]
    assert service["spec"]["selector"] == job("llmload-master")["template"]["metadata"]["labels"]
    assert argument("llmload-master", "master-bind-host") == "0.0.0.0"
    workers = job("llmload-workers")
    assert int(argument("llmload-master", "expect-workers")) == workers["parallelism"] == workers["completions"]


@pytest.mark.parametrize("name", ["llmload-master", "llmload-workers"])
def test_a_pod_has_time_to_drain_and_to_write_after_sigterm(name: str) -> None:
    given = [word.partition("=")[2] for word in args(name) if word.startswith("--drain-on-sigterm=")]
    drain_s = float(given[0]) if given else DRAIN_ON_SIGTERM_S
    answers_s = ABORT_GRACE_S + max(ABORT_REPLY_S, SIGTERM_GRACE_S)

    assert pod(name)["terminationGracePeriodSeconds"] >= drain_s + answers_s + WRITING_S


@pytest.mark.parametrize("name", ["llmload-master", "llmload-workers"])
def test_every_volume_exists_and_the_scenario_is_at_its_path(name: str) -> None:
    spec, container = pod(name), pod(name)["containers"][0]
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    volumes = {each["name"]: each for each in spec["volumes"]}
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    claims = {each["metadata"]["name"] for each in objects() if each["kind"] == "PersistentVolumeClaim"}

    assert mounts.keys() == volumes.keys()
    assert volumes["scenario"]["configMap"]["name"] == kustomization["configMapGenerator"][0]["name"]
    assert volumes["runs"]["persistentVolumeClaim"]["claimName"] in claims
    assert container["image"] == kustomization["images"][0]["name"]
    assert f"{WORKDIR}{argument(name, 'config')}" == f"{mounts['scenario']}/scenario.toml"


def test_locust_knows_every_option() -> None:
    known = subprocess.run(
        [sys.executable, "-m", "locust", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    used = {word.partition("=")[0] for name in ("llmload-master", "llmload-workers") for word in args(name)}

    own = (ROOT / "llmload" / "loadgen" / "options.py").read_text()  # Locust's help leaves a locustfile's options out
    assert used <= set(re.findall(r"--[a-z-]+", known + own))


def args(name: str) -> list[str]:
    words: list[str] = pod(name)["containers"][0]["args"]
    return words
