"""Where the engine is when more than an address says it: TLS by options and environment, contexts."""

from __future__ import annotations

import os

from bireme.cli.errors import CommandFailed
from bireme.cli.invocation import DEFAULT_CONTEXT, UNRESOLVED
from bireme.client.transport import DEFAULT_HOST, TlsFiles, parse_host
from bireme.errors import BiremeError, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bireme.cli.invocation import Invocation

_HINT = "--tlscacert, --tlscert and --tlskey name the files, DOCKER_CERT_PATH their directory"


def resolve(invocation: Invocation, context: str, host: str) -> tuple[str, TlsFiles | None]:
    """The address and TLS of `context`; `host` is the default one's. CommandFailed with docker's words."""
    try:
        if context == DEFAULT_CONTEXT:
            return host, _of_options(invocation, host)
        return _of_context(invocation, context)
    except BiremeError as error:
        hint = f"\nHint: {error.hint}" if error.hint else ""
        raise CommandFailed(f"{UNRESOLVED}: {error.message}{hint}") from error


def _of_options(invocation: Invocation, host: str) -> TlsFiles | None:
    options, environ = invocation.options, invocation.environ
    if parse_host(host)[0] == "unix":
        if options["tls"] or options["tlsverify"]:
            raise CommandFailed(f"bireme: TLS is for tcp:// addresses, and the engine is at {host}")
        return None  # the environment's wishes are for another address
    verify = bool(options["tlsverify"])
    if "tlsverify" not in options.given:
        verify = bool(environ.get("DOCKER_TLS_VERIFY"))
    directory = environ.get("DOCKER_CERT_PATH") or invocation.directory
    ca = _file(options["tlscacert"], directory, "ca.pem", needed=verify)
    certificate = _file(options["tlscert"], directory, "cert.pem", needed=False)
    key = _file(options["tlskey"], directory, "key.pem", needed=False)
    return TlsFiles(ca, certificate, key, verify)


def _file(named: str, directory: str, name: str, *, needed: bool) -> str:
    """The file that was named, else the usual one where it exists (or is needed)."""
    path = named or os.path.join(directory, name)
    if os.path.exists(path):
        return path
    if named or needed:
        raise NotFound(f"open {path}: no such file or directory", subject=path, hint=_HINT)
    return ""


def _of_context(invocation: Invocation, context: str) -> tuple[str, TlsFiles | None]:
    from bireme.cli.contextstore import ContextStore, endpoint

    store = ContextStore(invocation.directory)
    found = endpoint(store.read(context))
    host, skip = str(found.get("Host") or DEFAULT_HOST), bool(found.get("SkipTLSVerify"))
    files = store.tls_files(context)
    if parse_host(host)[0] == "unix" or not (files or skip):
        return host, None
    return host, TlsFiles(files.get("ca.pem", ""), files.get("cert.pem", ""), files.get("key.pem", ""), not skip)
