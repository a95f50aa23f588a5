"""Every port is one, or is refused by the option's name before anything is sent."""

import argparse

import pytest

from llmload.errors import ConfigError
from llmload.loadgen.ports import UNSET, check_ports, metrics_port

NONE = {"web_port": UNSET, "master_port": UNSET, "master_bind_port": UNSET, "metrics_port": "off"}


@pytest.mark.parametrize("option", ["web_port", "master_port", "master_bind_port"])
@pytest.mark.parametrize("port", [0, -1, 65_536, 99_999, 2**70])
def test_a_port_of_locust(option: str, port: int) -> None:
    with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')} {port}: is not a port number; 1 to 65535"):
        check_ports(argparse.Namespace(**{**NONE, option: port}))


@pytest.mark.parametrize(
    "port", ["65536", "99999", "-1", "http", "80.0", " 80", "\u0663", "\u00b2", "9" * 5000, "1_0", "+1"]
)
def test_a_port_of_metrics(port: str) -> None:
    with pytest.raises(ConfigError, match=r"--metrics-port .*: is not a port number; 1 to 65535, or off") as refused:
        check_ports(argparse.Namespace(**{**NONE, "metrics_port": port}))

    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(("text", "port"), [("1", 1), ("65535", 65_535), ("off", None), ("0", None), ("OFF", None)])
def test_a_port_that_can_be_listened_on_is_taken(text: str, port: int | None) -> None:
    check_ports(argparse.Namespace(web_port=8089, master_port=1, master_bind_port=65_535, metrics_port=text))

    assert metrics_port(text) == port
