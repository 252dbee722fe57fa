"""One run of one verb: what was typed, where the engine is, where output goes, and the user's settings.

Settings are docker's own file, ~/.docker/config.json, and its contexts. Both are looked at only when a verb needs an
engine or one of their values.
"""

from __future__ import annotations

import os
import sys

from bireme.cli.errors import CommandFailed
from bireme.client.engine import Engine
from bireme.client.jsontext import loads
from bireme.client.transport import choose_host
from bireme.errors import Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from bireme.cli.option import Arguments
    from bireme.client.transport import TlsFiles

DEFAULT_CONTEXT = "default"
UNRESOLVED = "Failed to initialize: unable to resolve docker endpoint"
_TEXTS = ("currentContext", "detachKeys", "psFormat", "imagesFormat", "statsFormat", "networksFormat", "volumesFormat")


class Invocation:
    """Handed to every verb. `command` is its spelling, for messages; `options` are those before the verb."""

    def __init__(self, command: str, args: Arguments, options: Arguments, environ: Mapping[str, str]) -> None:
        self.command = command
        self.args = args
        self.options = options
        self.environ = environ
        self._settings: dict[str, Any] | None = None
        self._engine: Engine | None = None
        self._target: tuple[str, TlsFiles | None] | None = None

    @property
    def host(self) -> str:
        return self.target()[0]

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            host, tls = self.target()
            version = self.environ.get("DOCKER_API_VERSION", "") or Engine.default_version
            self._engine = Engine(host, version, tls=tls, headers=self._headers())
        return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    @property
    def directory(self) -> str:
        """Where config.json and contexts/ are: --config, BIREME_CONFIG, DOCKER_CONFIG, ~/.docker."""
        named = self.options["config"] or self.environ.get("BIREME_CONFIG") or self.environ.get("DOCKER_CONFIG")
        return str(named or os.path.expanduser("~/.docker"))

    @property
    def settings(self) -> dict[str, Any]:
        """config.json; empty, after a warning, when it cannot be understood."""
        if self._settings is None:
            path = os.path.join(self.directory, "config.json")
            try:
                self._settings = read_settings(path)
            except Invalid as error:
                self.err(f"WARNING: Error parsing config file ({path}): {error.message}")
                self._settings = {}
        return self._settings

    def _headers(self) -> dict[str, str]:
        headers = self.settings.get("HttpHeaders") or {}
        return {name: value for name, value in headers.items() if name.lower() not in ("host", "user-agent")}

    def form(self, setting: str) -> str:
        """--format, else what the user's settings say; a --quiet listing shows ids whatever they say."""
        form = str(self.args["format"])
        if form or self.args.values.get("quiet"):
            return form
        return str(self.settings.get(setting) or "")

    @property
    def detach_keys(self) -> str:
        return str(self.args["detach-keys"] or self.settings.get("detachKeys") or "")

    def option_host(self) -> str:
        hosts = self.options["host"]
        if len(hosts) > 1:
            raise CommandFailed(f"{UNRESOLVED}: Specify only one -H")
        return hosts[0] if hosts else ""

    def context(self) -> str:
        """The name of the context in use."""
        host, named = self.option_host(), str(self.options["context"])
        if host and named:
            raise CommandFailed("conflicting options: cannot specify both --host and --context")
        environ = self.environ
        if named or host or environ.get("BIREME_HOST") or environ.get("DOCKER_HOST"):
            return named or DEFAULT_CONTEXT
        return environ.get("DOCKER_CONTEXT") or self.settings.get("currentContext") or DEFAULT_CONTEXT

    def target(self) -> tuple[str, TlsFiles | None]:
        """The engine's address, and the TLS it wants."""
        if self._target is None:
            context = self.context()
            host = choose_host(self.option_host(), self.environ)
            if context == DEFAULT_CONTEXT and not self._tls_asked():
                self._target = host, None
            else:
                from bireme.cli.target import resolve

                self._target = resolve(self, context, host)
        return self._target

    def _tls_asked(self) -> bool:
        options, environ = self.options, self.environ
        return bool(
            options["tls"]
            or "tlsverify" in options.given
            or environ.get("DOCKER_TLS_VERIFY")
            or environ.get("DOCKER_TLS")
        )

    def out(self, text: str) -> None:
        """One line to standard output."""
        sys.stdout.write(text + "\n")

    def err(self, text: str) -> None:
        """One line to standard error, after everything that went to standard output."""
        sys.stdout.flush()
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def read_settings(path: str) -> dict[str, Any]:
    """A config.json; {} when there is none, Invalid when it is not one."""
    try:
        with open(path, "rb") as file:
            values = loads(file.read())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Invalid(error.strerror or str(error)) from error
    if not isinstance(values, dict):
        raise Invalid("not a JSON object")
    for name in _TEXTS:
        if not isinstance(values.get(name) or "", str):
            raise Invalid(f"{name} is not a string")
    headers = values.get("HttpHeaders") or {}
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise Invalid("HttpHeaders is not a map of strings")
    for name, value in headers.items():
        if not name or not name.replace("-", "").isalnum() or any(char < " " or char == "\x7f" for char in value):
            raise Invalid(f"HttpHeaders: invalid header {name!r}")
    return values
