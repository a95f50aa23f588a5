"""The manifests of `deploy/kubernetes`, as tests read them."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

KUBERNETES = Path(__file__).parents[1] / "deploy" / "kubernetes"
JOBS = ("llmload-master", "llmload-workers")


@cache
def kustomization() -> dict[str, Any]:
    """What the folder is put together from."""
    found: dict[str, Any] = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    return found


@cache
def objects() -> list[dict[str, Any]]:
    """Every object of the folder."""
    files = kustomization()["resources"]
    return [each for name in files for each in yaml.safe_load_all((KUBERNETES / name).read_text())]


def job(name: str) -> dict[str, Any]:
    """The `spec` of a Job."""
    (found,) = (each for each in objects() if (each["kind"], each["metadata"]["name"]) == ("Job", name))
    spec: dict[str, Any] = found["spec"]
    return spec


def pod(name: str) -> dict[str, Any]:
    """The `spec` of a Job's pods."""
    spec: dict[str, Any] = job(name)["template"]["spec"]
    return spec


def container(name: str) -> dict[str, Any]:
    """The one container of a Job's pods."""
    (only,) = pod(name)["containers"]
    found: dict[str, Any] = only
    return found


def args(name: str) -> list[str]:
    """The words of Locust's command line in a Job's pods."""
    words: list[str] = container(name)["args"]
    return words


def argument(name: str, option: str) -> str:
    """The value that an option has there."""
    (found,) = (word for word in args(name) if word.startswith(f"--{option}="))
    return found.partition("=")[2]
