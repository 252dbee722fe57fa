"""Published ports and the network."""

from __future__ import annotations

import pytest

from bireme.api.docker.bodies import (
    ContainerConfig,
    EndpointConfig,
    HostConfig,
    IPAMConfig,
    NetworkingConfig,
    PortBinding,
)
from bireme.api.docker.ports import exposed_ports_of, network_of, ports_of
from bireme.errors import Invalid, Unsupported
from bireme.instance.spec import NetworkRequest, PortRequest


def ports(binding: PortBinding | None, port: str = "80/tcp") -> tuple[PortRequest, ...]:
    return ports_of(HostConfig(PortBindings={port: [] if binding is None else [binding]}))


def test_bindings() -> None:
    assert ports(PortBinding(HostPort="8080")) == (PortRequest(container_port=80, host_port=8080),)
    assert ports(None) == (PortRequest(container_port=80),)
    assert ports(PortBinding(HostIp="::1", HostPort="8000-8010"), "53/UDP") == (
        PortRequest(container_port=53, protocol="udp", host_ip="::1", host_port=8000, host_port_end=8010),
    )
    assert ports(PortBinding(HostPort="0"), "80") == (PortRequest(container_port=80),)


@pytest.mark.parametrize(
    ("port", "binding", "message"),
    [
        ("x/tcp", PortBinding(), 'invalid port specification: "x/tcp"'),
        ("0/tcp", PortBinding(), 'invalid port specification: "0/tcp"'),
        ("65536/tcp", PortBinding(), 'invalid port specification: "65536/tcp"'),
        ("80/icmp", PortBinding(), "invalid proto: icmp"),
        ("80/tcp", PortBinding(HostPort="x"), 'invalid port specification: "x"'),
        ("80/tcp", PortBinding(HostPort="-1"), 'invalid port specification: "-1"'),
        ("80/tcp", PortBinding(HostPort="70000"), 'invalid port specification: "70000"'),
        ("80/tcp", PortBinding(HostPort="90-80"), 'invalid port specification: "90-80"'),
        ("80/tcp", PortBinding(HostIp="localhost"), "invalid IP address: localhost"),
    ],
)
def test_bad_bindings(port: str, binding: PortBinding, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        ports(binding, port)
    assert caught.value.message == message


def test_exposed() -> None:
    config = ContainerConfig(ExposedPorts={"80/tcp": {}, "53/UDP": {}, "90": {}, "7-9/tcp": {}})
    assert exposed_ports_of(config) == ("80/tcp", "53/udp", "90/tcp", "7/tcp", "8/tcp", "9/tcp")
    with pytest.raises(Invalid, match="invalid port specification"):
        exposed_ports_of(ContainerConfig(ExposedPorts={"9-7": {}}))


def network(
    mode: str = "",
    version: int = 50,
    config: ContainerConfig | None = None,
    options: HostConfig | None = None,
    **endpoints: EndpointConfig,
) -> tuple[NetworkRequest, list[str]]:
    options = options or HostConfig()
    options.NetworkMode = mode
    return network_of(config or ContainerConfig(), options, NetworkingConfig(EndpointsConfig=endpoints), version)


def test_modes() -> None:
    for mode in ("", "default", "bridge"):
        assert network(mode) == (NetworkRequest(name="bridge"), [])
    assert network("none")[0].name == "none"
    assert network("mine")[0].name == "mine"
    assert network("container:x")[0].name == "container:x"
    assert network("bridge", config=ContainerConfig(NetworkDisabled=True))[0].name == "none"
    assert network("default", default=EndpointConfig())[0].name == "bridge"
    published = HostConfig(PortBindings={"80/tcp": []})
    assert network("host", options=published)[1] == ["Published ports are discarded when using host network mode"]


def test_addresses() -> None:
    endpoint = EndpointConfig(IPAMConfig=IPAMConfig(IPv4Address="172.17.0.9"), MacAddress="02-42-AC-11-00-09")
    assert network("bridge", bridge=endpoint)[0] == NetworkRequest(
        name="bridge", address="172.17.0.9", mac="02:42:ac:11:00:09"
    )
    assert network("bridge", 43, bridge=endpoint)[0].mac == ""


def test_mac_of_older_clients() -> None:
    mac = "02:42:ac:11:00:09"
    config = ContainerConfig(MacAddress=mac)
    assert network("bridge", 43, config)[0].mac == mac
    request, warnings = network("bridge", 50, config)
    assert request.mac == mac
    assert "now deprecated" in warnings[0]
    for mode, version, endpoint, message in (
        ("bridge", 52, EndpointConfig(), "no longer supported"),
        ("bridge", 50, EndpointConfig(MacAddress="02:42:ac:11:00:0a"), "must match the endpoint-specific"),
        ("host", 43, EndpointConfig(), "conflicting options: mac-address and the network mode"),
    ):
        with pytest.raises(Invalid, match=message):
            network(mode, version, config, **{mode: endpoint})


@pytest.mark.parametrize(
    ("mode", "endpoints", "kind", "message"),
    [
        ("bridge", {"a": EndpointConfig(), "b": EndpointConfig()}, Unsupported, "multiple network endpoints: a, b"),
        ("bridge", {"a": EndpointConfig()}, Invalid, "must match the identity of a network"),
        ("bridge", {"bridge": EndpointConfig(Links=["x"])}, Unsupported, "links"),
        ("bridge", {"bridge": EndpointConfig(Aliases=["x"])}, Invalid, "network-scoped aliases"),
        (
            "bridge",
            {"bridge": EndpointConfig(DriverOpts={"x": "1"})},
            Unsupported,
            "driver options are not supported: x",
        ),
        ("bridge", {"bridge": EndpointConfig(MacAddress="x")}, Invalid, "invalid MAC address: x"),
        (
            "bridge",
            {"bridge": EndpointConfig(IPAMConfig=IPAMConfig(IPv4Address="x"))},
            Invalid,
            "invalid IPv4 address: x",
        ),
        ("bridge", {"bridge": EndpointConfig(IPAMConfig=IPAMConfig(IPv6Address="::1"))}, Unsupported, "IPv6"),
    ],
)
def test_refused(mode: str, endpoints: dict[str, EndpointConfig], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        network(mode, **endpoints)


@pytest.mark.parametrize(
    ("config", "host"),
    [
        (ContainerConfig(Hostname="h"), HostConfig()),
        (ContainerConfig(ExposedPorts={"80": {}}), HostConfig()),
        (ContainerConfig(), HostConfig(Dns=["1.1.1.1"])),
        (ContainerConfig(), HostConfig(ExtraHosts=["a:1.1.1.1"])),
        (ContainerConfig(), HostConfig(PortBindings={"80/tcp": []})),
        (ContainerConfig(), HostConfig(PublishAllPorts=True)),
        (ContainerConfig(), HostConfig(Links=["web"])),
        (ContainerConfig(MacAddress="02:00:00:00:00:01"), HostConfig()),
    ],
)
def test_options_of_a_shared_network(config: ContainerConfig, host: HostConfig) -> None:
    with pytest.raises(Invalid, match="conflicting options"):
        network("container:x", config=config, options=host)
