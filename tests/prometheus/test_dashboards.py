"""The committed dashboard is up to date, and its panels and rules use series that exist."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from llmload.cli.main import main
from llmload.prometheus.families import sample_names
from llmload.prometheus.grafana import ROWS, RUN_REGIONS
from llmload.prometheus.pages import ENGINE, GPU

pytest.importorskip("grafana_foundation_sdk", reason="needs the dashboards extra")
GRAFANA = Path(__file__).parents[2] / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "llmload.json").read_text())
RECORDED = set(re.findall(r"record: (\S+)", (GRAFANA / "prometheus" / "rules" / "recording.yml").read_text()))
KNOWN = sample_names() | RECORDED | {name for figure in GPU for name in figure.series}
NAMES = re.compile(r"\b(?:llmload_\w+|engine:[\w:]+|DCGM_\w+|(?:vllm|sglang|llamacpp):\w+|tgi_\w+)\b")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["dashboards", *arguments])


def test_the_committed_dashboard_is_up_to_date(tmp_path: Path) -> None:
    assert run("check", "--out", str(GRAFANA / "dashboards")).exit_code == 0
    assert run("build", "--out", str(tmp_path)).exit_code == 0
    (tmp_path / "llmload.json").write_text("{}")
    drifted = run("check", "--out", str(tmp_path))
    assert (drifted.exit_code, "llmload dashboards build" in drifted.output) == (1, True)


def test_every_panel_has_a_unique_id_a_unit_a_text_and_a_position() -> None:
    panels = DASHBOARD["panels"]
    places = [tuple(panel["gridPos"][key] for key in "xywh") for panel in panels]

    assert len({panel["id"] for panel in panels}) == len(panels) == sum(map(len, ROWS))
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "llmload-prometheus"
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
    cells = [(x + i, y + j) for x, y, w, h in places for i in range(w) for j in range(h)]
    assert len(set(cells)) == len(cells), "panels cover each other"
    assert max(x for x, _ in cells) < 24


def test_panels_and_rules_name_only_series_that_exist() -> None:
    queries = [query for row in ROWS for panel in row for query in panel.queries.values()]
    alerts = (GRAFANA / "prometheus" / "rules" / "alerts.yml").read_text()
    recording = (GRAFANA / "prometheus" / "rules" / "recording.yml").read_text()

    for text in (*queries, RUN_REGIONS, *re.findall(r"expr: \|?((?:.|\n)*?)(?=\n +(?:for|labels):)", alerts)):
        assert set(NAMES.findall(text)), text
        assert set(NAMES.findall(text)) <= KNOWN, text
    engines = {name for figure in ENGINE for name in figure.series}
    read_by_rules = set(NAMES.findall(" ".join(re.findall(r"\((.*?)[\[)]", recording)))) - RECORDED
    assert read_by_rules
    assert read_by_rules <= engines


def test_gauges_that_are_rates_already_are_not_derived_again() -> None:
    queries = [query for row in ROWS for panel in row for query in panel.queries.values()]

    assert not [query for query in queries if "NVLINK" in query and "rate(" in query]


def test_dcgm_exports_every_field_that_is_read() -> None:
    lines = (GRAFANA / "dcgm" / "llmload-counters.csv").read_text().splitlines()
    fields = {line.split(",")[0] for line in lines if not line.startswith("#")}

    assert {name for figure in GPU for name in figure.series} <= fields


def test_grafana_has_the_scrape_interval_of_prometheus() -> None:
    source = (GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text()
    config = (GRAFANA / "prometheus" / "prometheus.yml").read_text()

    assert re.findall(r"timeInterval: (\w+)", source) == re.findall(r"scrape_interval: (\w+)", config)


def test_images_are_pinned_and_nothing_listens_beyond_this_machine() -> None:
    compose = (GRAFANA / "compose.yaml").read_text()

    others = set(re.findall(r"image: (\S+)", compose)) - {"llmload"}
    assert all(re.search(r":v?\d+\.\d+\.\d+", image) for image in others)
    assert "0.0.0.0" not in compose
    assert "ports:" not in compose


def test_compose_starts_each_profile_from_existing_files() -> None:
    compose = yaml.safe_load((GRAFANA / "compose.yaml").read_text())
    profiles = {name: service.get("profiles", []) for name, service in compose["services"].items()}
    mounts = [each for service in compose["services"].values() for each in service["volumes"]]

    assert profiles == {"prometheus": [], "grafana": [], "dcgm-exporter": ["gpu"], "llmload": ["web"]}
    assert {service["network_mode"] for service in compose["services"].values()} == {"host"}
    for source in (mount.partition(":")[0] for mount in mounts):
        assert source in compose["volumes"] or (GRAFANA / source).exists(), source
    web = compose["services"]["llmload"]
    assert (GRAFANA / web["build"]["context"] / web["build"]["dockerfile"]).is_file()
    default = re.findall(r"LLMLOAD_SCENARIO:-(\S+)}", web["command"][1])
    assert [(GRAFANA.parent / name).is_file() for name in default] == [True]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus")
@pytest.mark.parametrize("arguments", [("check", "config", "prometheus.yml"), ("test", "rules", "rules/tests.yml")])
def test_promtool_accepts_configuration_and_rules_and_their_tests_pass(arguments: tuple[str, ...]) -> None:
    ended = subprocess.run(
        ["promtool", *arguments], cwd=GRAFANA / "prometheus", capture_output=True, text=True, check=False
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
