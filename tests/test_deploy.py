"""The deployment files agree with the repository and each other: paths, options of Locust, ports."""

from locust.argument_parser import get_parser

import re
from pathlib import Path

import pytest

from llmload.loadgen.cluster import TOKEN_ENV
from llmload.loadgen.master import ABORT_REPLY_S
from llmload.loadgen.session import ABORT_GRACE_S
from llmload.loadgen.worker import SIGTERM_GRACE_S
from llmload.scenario import load_scenario
from llmload.scenario.options import DRAIN_ON_SIGTERM_S, OPTIONS
from tests.deployed import JOBS, KUBERNETES, args, argument, container, job, kustomization, objects, pod

ROOT = Path(__file__).parents[1]
WRITING_S = 2.0
"""For summary and report of a run of ordinary length."""
WORKDIR = "/llmload/"


def test_the_image_copies_existing_files_that_are_not_ignored() -> None:
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    copied = [source for line in lines if re.match("COPY (?!--from)", line) for source in line.split()[1:-1]]
    let_in = {
        line[1:] for line in (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"
    }

    assert copied
    assert all((ROOT / source).exists() for source in copied)
    assert set(copied) == let_in


def test_the_scenario_of_the_cluster_is_valid() -> None:
    scenario = load_scenario(KUBERNETES / "scenario.toml")

    environment = {each["name"] for each in container("llmload-workers")["env"]}
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


def test_master_and_workers_have_one_token_from_one_secret() -> None:
    tokens = [each["valueFrom"] for name in JOBS for each in container(name)["env"] if each["name"] == TOKEN_ENV]

    assert tokens == [{"secretKeyRef": {"name": "llmload-cluster", "key": "token"}}] * 2


@pytest.mark.parametrize("name", JOBS)
def test_a_pod_has_time_to_drain_and_to_write_after_sigterm(name: str) -> None:
    given = [word.partition("=")[2] for word in args(name) if word.startswith("--drain-on-sigterm=")]
    drain_s = float(given[0]) if given else DRAIN_ON_SIGTERM_S
    answers_s = ABORT_GRACE_S + max(ABORT_REPLY_S, SIGTERM_GRACE_S)

    assert pod(name)["terminationGracePeriodSeconds"] >= drain_s + answers_s + WRITING_S


@pytest.mark.parametrize("name", JOBS)
def test_every_volume_exists_and_the_scenario_is_at_its_path(name: str) -> None:
    spec, only = pod(name), container(name)
    mounts = {each["name"]: each["mountPath"] for each in only["volumeMounts"]}
    volumes = {each["name"]: each for each in spec["volumes"]}
    claims = {each["metadata"]["name"] for each in objects() if each["kind"] == "PersistentVolumeClaim"}

    assert mounts.keys() == volumes.keys()
    assert {"emptyDir", "name"} == set(volumes["tmp"])
    assert volumes["scenario"]["configMap"]["name"] == kustomization()["configMapGenerator"][0]["name"]
    assert volumes["runs"]["persistentVolumeClaim"]["claimName"] in claims
    assert only["image"] == kustomization()["images"][0]["name"]
    assert f"{WORKDIR}{argument(name, 'config')}" == f"{mounts['scenario']}/scenario.toml"


def test_locust_knows_every_option() -> None:
    known = get_parser().format_help()
    used = {word.partition("=")[0] for name in JOBS for word in args(name)}

    own = {name for option in OPTIONS for name in option.names}  # Locust's help leaves a locustfile's options out
    assert used <= {*re.findall(r"--[a-z-]+", known), *own}
