"""What a container may do, whom it may speak with, and what ends it: Kubernetes' manifests and the compose file."""

import json
import socket
import subprocess
from functools import cache
from importlib.metadata import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from llmload.scenario import load_scenario
from llmload.scenario.loads import OpenLoop
from llmload.scenario.options import DRAIN_ON_SIGTERM_S
from tests.deployed import JOBS, KUBERNETES, argument, container, job, objects, pod

ROOT = Path(__file__).parents[1]
COMPOSE = ROOT / "grafana" / "compose.yaml"
MASTER = {"app": "llmload", "role": "master"}
WORKER = {"app": "llmload", "role": "worker"}
ENGINE = {"app": "vllm"}
DNS = {"k8s-app": "kube-dns"}
PROMETHEUS = {"app.kubernetes.io/name": "prometheus"}
NAMESPACE = "kubernetes.io/metadata.name"


@cache
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


@pytest.mark.parametrize("version", ["1.28.0", kubernetes_validate.latest_version()])
def test_kubernetes_knows_every_field(version: str) -> None:
    for each in objects():
        kubernetes_validate.validate(each, version, strict=True)


def test_a_misspelt_field_is_seen() -> None:
    (service,) = (each for each in objects() if each["kind"] == "Service")

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**service, "specs": {}}, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("name", JOBS)
def test_a_pod_has_no_rights_that_it_does_not_need(name: str) -> None:
    spec = pod(name)

    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert (spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsGroup"]) == (1000, 1000)
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("name", JOBS)
def test_memory_is_reserved_and_bounded_and_no_cpu_limit_halts_the_load(name: str) -> None:
    resources = container(name)["resources"]

    assert resources["requests"].keys() == {"cpu", "memory"}
    assert resources["limits"] == {"memory": resources["requests"]["memory"]}


@pytest.mark.parametrize("name", JOBS)
def test_a_job_runs_once_and_ends_only_after_its_run_can_have_ended(name: str) -> None:
    scenario = load_scenario(KUBERNETES / "scenario.toml")
    assert isinstance(scenario.load, OpenLoop)
    assert scenario.load.duration_s is not None

    assert (job(name)["backoffLimit"], pod(name)["restartPolicy"]) == (0, "Never")
    run_s = scenario.load.duration_s + scenario.run.drain_timeout_s + DRAIN_ON_SIGTERM_S
    assert job(name)["activeDeadlineSeconds"] >= float(argument("llmload-master", "expect-workers-max-wait")) + run_s


@pytest.mark.parametrize("name", JOBS)
def test_no_probe_runs_once_a_pod_is_up(name: str) -> None:
    probe = container(name)["startupProbe"]

    assert not {"livenessProbe", "readinessProbe"} & container(name).keys()
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 300


def test_a_master_is_up_once_it_listens_and_a_worker_once_it_is_connected(tmp_path: Path) -> None:
    seen = tmp_path / "tcp"

    def up(name: str, port: int) -> bool:
        *grep, table, _ = container(name)["startupProbe"]["exec"]["command"]
        seen.write_text(Path(table).read_text().replace(f":{port:04X} ", f":{5557:04X} "))
        return subprocess.run([*grep, seen], check=False).returncode == 0

    with socket.socket() as master:
        master.bind(("127.0.0.1", 0))
        port = master.getsockname()[1]
        assert not up("llmload-master", port)
        master.listen()
        assert up("llmload-master", port)
        assert not up("llmload-workers", port)
        with socket.create_connection(("127.0.0.1", port)):
            assert up("llmload-workers", port)


def selects(selector: dict[str, dict[str, str]], labels: dict[str, str]) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items()


def passes(direction: str, pod_labels: dict[str, str], peer: dict[str, str], namespace: str | None, port: int) -> bool:
    """Whether NetworkPolicy lets a pod of ours take from (`ingress`) or send to (`egress`) a peer at a port."""
    policies = [each["spec"] for each in objects() if each["kind"] == "NetworkPolicy"]
    applying = [
        spec
        for spec in policies
        if selects(spec["podSelector"], pod_labels) and direction.capitalize() in spec["policyTypes"]
    ]
    ends = {"ingress": "from", "egress": "to"}[direction]
    return not applying or any(
        port in {each["port"] for each in rule["ports"]}
        and any(
            selects(end["podSelector"], peer)
            and ("namespaceSelector" in end) == (namespace is not None)
            and selects(end.get("namespaceSelector", {}), {NAMESPACE: namespace or ""})
            for end in rule[ends]
        )
        for spec in applying
        for rule in spec.get(direction, [])
    )


@pytest.mark.parametrize(
    ("direction", "ours", "peer", "namespace", "port", "open_"),
    [
        ("ingress", MASTER, WORKER, None, 5557, True),
        ("ingress", MASTER, ENGINE, None, 5557, False),
        ("ingress", MASTER, {"app": "other"}, None, 5557, False),
        ("ingress", MASTER, WORKER, "elsewhere", 5557, False),
        ("ingress", MASTER, PROMETHEUS, "monitoring", 9646, True),
        ("ingress", MASTER, PROMETHEUS, "monitoring", 5557, False),
        ("ingress", MASTER, PROMETHEUS, "elsewhere", 9646, False),
        ("ingress", MASTER, WORKER, None, 9646, False),
        ("ingress", MASTER, WORKER, None, 8089, False),
        ("ingress", WORKER, MASTER, None, 5557, False),
        ("ingress", WORKER, PROMETHEUS, "monitoring", 9646, False),
        ("egress", WORKER, MASTER, None, 5557, True),
        ("egress", WORKER, ENGINE, None, 8000, True),
        ("egress", WORKER, DNS, "kube-system", 53, True),
        ("egress", WORKER, {"app": "other"}, None, 443, False),
        ("egress", WORKER, WORKER, None, 5557, False),
        ("egress", MASTER, ENGINE, None, 8000, True),
        ("egress", MASTER, DNS, "kube-system", 53, True),
        ("egress", MASTER, WORKER, None, 5557, False),
    ],
)
def test_who_may_speak_with_whom(
    direction: str, ours: dict[str, str], peer: dict[str, str], namespace: str | None, port: int, open_: bool
) -> None:
    assert passes(direction, ours, peer, namespace, port) is open_


def test_the_engine_of_the_scenario_is_the_one_that_the_network_lets_through() -> None:
    scenario = load_scenario(KUBERNETES / "scenario.toml")

    assert scenario.engine.base_url == ["http://vllm:8000"]
    assert passes("egress", WORKER, ENGINE, None, 8000)
    assert {name: job(name)["template"]["metadata"]["labels"] for name in JOBS} == {
        "llmload-master": MASTER,
        "llmload-workers": WORKER,
    }


def test_the_packet_ring_needs_one_capability_and_changes_what_is_there() -> None:
    component = yaml.safe_load((KUBERNETES / "packet-stamps" / "kustomization.yaml").read_text())
    (patch,) = component["patches"]
    changed = job(patch["target"]["name"])

    for change in yaml.safe_load(patch["patch"]):
        *above, last = change["path"].removeprefix("/spec/").split("/")
        at: Any = changed
        for key in above:
            at = at[int(key)] if isinstance(at, list) else at[key]
        assert (last in at) == (change["op"] == "replace"), change["path"]
    added = [each["value"] for each in yaml.safe_load(patch["patch"]) if each["op"] == "add"]
    assert added == [["NET_RAW"]]
    assert "components" not in yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text()), (
        "only where it is wanted"
    )


def test_compose_knows_every_field_of_the_compose_file() -> None:
    # Read, not imported: the package brings ssl, which gevent has to patch first
    (packed,) = (each for each in files("check-jsonschema") or () if each.name == "compose-spec.json")
    schema = json.loads(packed.read_text())
    written = yaml.safe_load(COMPOSE.read_text())

    jsonschema.validate(written, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"services": {"grafana": {**written["services"]["grafana"], "readonly": True}}}, schema)


@pytest.mark.parametrize("name", services())
def test_a_service_has_no_rights_that_it_does_not_need(name: str) -> None:
    service = services()[name]
    rooted = name == "dcgm-exporter"

    assert service["cap_drop"] == ["ALL"]
    assert service.get("cap_add", []) == (["SYS_ADMIN"] if rooted else [])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is not rooted
    assert all(part.isdigit() for part in service["user"].split(":")), "a number needs no look-up in the image"
    assert (service["user"].split(":")[0] == "0") is rooted
    limits = service["deploy"]["resources"]["limits"]
    assert limits.keys() == {"memory", "pids"} | ({"cpus"} if name != "llmload" else set())


def test_the_health_of_a_service_is_checked_at_the_port_that_it_listens_on() -> None:
    asked = {name: " ".join(service["healthcheck"]["test"]) for name, service in services().items()}

    assert ":9090/" in asked["prometheus"]
    assert "--web.listen-address=127.0.0.1:9090" in services()["prometheus"]["command"]
    assert ":3000/" in asked["grafana"]
    assert "8089" in asked["llmload"]
    assert "/9400" in asked["dcgm-exporter"]
    assert "127.0.0.1:9400" in services()["dcgm-exporter"]["command"]


def test_compose_gives_llmload_time_to_drain() -> None:
    assert float(services()["llmload"]["stop_grace_period"].removesuffix("s")) >= DRAIN_ON_SIGTERM_S + 10
