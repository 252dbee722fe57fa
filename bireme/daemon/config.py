"""biremed's settings: built-in defaults, then the configuration file (TOML), then the command line."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from bireme.errors import Invalid
from bireme.oci.digest import sha256_hex

DEFAULT_CONFIG = "/etc/bireme/config.toml"
DEFAULT_DATA_ROOT = "/var/lib/bireme"
DEFAULT_RUN_ROOT = "/run/bireme"


class BridgeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The default network: `subnet` "" picks a free one, `name` "" is derived from the run root."""

    enabled: bool = True
    name: str = ""
    subnet: str = ""
    mtu: int = 1500


class SpareSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many prepared processes wait for a start, by kind of network; 0 turns them off."""

    none: int = 8
    bridge: int = 16


class TlsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PEM files for tcp:// hosts; clients must show a certificate signed by `ca`."""

    ca: str = ""
    certificate: str = ""
    key: str = ""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything an engine can be told; keys of the file are these names."""

    data_root: str = DEFAULT_DATA_ROOT
    run_root: str = DEFAULT_RUN_ROOT
    hosts: tuple[str, ...] = ()
    group: str = "bireme"
    insecure_tcp: bool = False
    tls: TlsSettings = TlsSettings()
    bridge: BridgeSettings = BridgeSettings()
    spares: SpareSettings = SpareSettings()
    snapshotter: str = "overlay"
    userns: bool = True
    userns_base: int = 0x10000000
    favordynmods: bool = True
    log_level: str = "info"

    @property
    def tag(self) -> str:
        """Six characters that keep this engine's kernel objects apart from another's."""
        return sha256_hex(os.path.realpath(self.run_root).encode())[:6]

    @property
    def bridge_name(self) -> str:
        default = "bireme0" if os.path.realpath(self.run_root) == DEFAULT_RUN_ROOT else f"br-{self.tag}"
        return self.bridge.name or default

    @property
    def listen(self) -> tuple[str, ...]:
        return self.hosts or (f"unix://{self.run_root}/bireme.sock",)

    @property
    def memory(self) -> str:
        """Where the engine's small file system in memory is mounted."""
        return f"{self.run_root}/memory"

    @property
    def supervisor_socket(self) -> str:
        return f"{self.run_root}/supervisor.sock"


def load(path: str | None, overrides: dict[str, Any]) -> Config:
    """The settings in force; Invalid names the file and the key that is wrong."""
    settings: dict[str, Any] = {}
    if path is not None or os.path.exists(DEFAULT_CONFIG):
        settings = _read(path or DEFAULT_CONFIG)
    settings.update({k: v for k, v in overrides.items() if v is not None})
    try:
        config = msgspec.convert(settings, Config)
    except msgspec.ValidationError as error:
        raise Invalid(f"configuration: {error}", place=path or DEFAULT_CONFIG) from error
    _check(config)
    return config


def _read(path: str) -> dict[str, Any]:
    import tomllib

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise Invalid(f"cannot read configuration file {path}: {error}", place=path) from error


def _check(config: Config) -> None:
    for name in ("data_root", "run_root"):
        if not os.path.isabs(getattr(config, name)):
            raise Invalid(f"{name} must be an absolute path, not {getattr(config, name)!r}")
    for host in config.listen:
        if not host.startswith(("unix://", "tcp://", "fd://")):
            raise Invalid(f"host {host!r} must start with unix://, tcp:// or fd://")
        if host.startswith("tcp://") and not (config.insecure_tcp or config.tls.certificate):
            raise Invalid(
                f"{host} without TLS gives everyone who can reach it root on this machine",
                hint="set tls.ca, tls.certificate and tls.key, or insecure_tcp = true",
            )
