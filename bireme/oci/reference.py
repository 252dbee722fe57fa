"""Image references as Docker reads them (distribution/reference, regexp.go and normalize.go).

    reference  := name [ ":" tag ] [ "@" digest ]
    name       := [ domain "/" ] path
    domain     := host [ ":" port ]          a first component without "." or ":" that is not "localhost" is a path
    path       := component { "/" component }
    component  := alnum { ("." | "_" | "__" | "-"+) alnum }
    tag        := word { word | "." | "-" }  at most 128

A name without a domain is one of docker.io, and one of docker.io with a single component is in library/: `busybox` is
docker.io/library/busybox:latest. The short spelling is the familiar one, the full one the canonical one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from bireme.errors import Invalid
from bireme.oci.digest import check_digest

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"

_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_NAME_MAX = 255

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[(?:[a-fA-F0-9:]+)\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"

_DOMAIN_ONLY = re.compile(rf"{_DOMAIN}\Z")
_PATH_ONLY = re.compile(rf"{_PATH}\Z")
_TAG_ONLY = re.compile(rf"{_TAG}\Z")
_IDENTIFIER = re.compile(r"[a-f0-9]{64}\Z")


class Reference(NamedTuple):
    """A parsed reference; `tag` and `digest` are "" where absent."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """The repository, canonical: docker.io/library/busybox."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository as people write it: busybox."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        rest = self.path.removeprefix(_OFFICIAL)
        return rest if "/" not in rest else self.path

    @property
    def canonical(self) -> str:
        """docker.io/library/busybox:latest"""
        return self.name + self._suffix()

    @property
    def familiar(self) -> str:
        """busybox:latest"""
        return self.familiar_name + self._suffix()

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def with_tag(self, tag: str) -> Reference:
        """The same repository under `tag`; Invalid for a malformed tag."""
        return Reference(self.domain, self.path, check_tag(tag))

    def with_digest(self, digest: str) -> Reference:
        """The same repository by `digest`."""
        return Reference(self.domain, self.path, "", check_digest(digest))


def check_tag(tag: str) -> str:
    """`tag` itself when well-formed; Invalid with Docker's words otherwise."""
    if not _TAG_ONLY.match(tag):
        raise Invalid("invalid tag format", subject=tag[:256])
    return tag


def parse_reference(text: str, *, default_tag: str = DEFAULT_TAG) -> Reference:
    """Read a reference in any spelling; without tag and digest it gets `default_tag` ("" leaves it a bare name).

    Invalid with Docker's words for anything else, a 64-digit hex id included.
    """
    if _IDENTIFIER.match(text):
        raise Invalid(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings", subject=text)
    if len(text) > 4096:
        raise Invalid("invalid reference format", subject=text[:256])
    rest, at, digest = text.partition("@")
    name, tag = _split_tag(rest)
    domain, path = _split_domain(name)
    _check_name(domain, path, text)
    if (at and not digest) or (tag is not None and not _TAG_ONLY.match(tag)):
        raise Invalid("invalid reference format", subject=text)
    if at:
        check_digest(digest)
    if not tag and not at:
        tag = default_tag
    return Reference(domain, path, tag or "", digest)


def _split_tag(text: str) -> tuple[str, str | None]:
    colon = text.rfind(":")
    if colon <= text.rfind("/"):
        return text, None
    return text[:colon], text[colon + 1 :]


def _split_domain(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    is_domain = slash and (any(c in first for c in ".:[") or first == "localhost" or first != first.lower())
    domain, path = (first, rest) if is_domain else (DEFAULT_DOMAIN, name)
    if domain == _LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = _OFFICIAL + path
    return domain, path


def _check_name(domain: str, path: str, text: str) -> None:
    if not _PATH_ONLY.match(path):
        if path != path.lower() and _PATH_ONLY.match(path.lower()):
            shown = path.removeprefix(_OFFICIAL) if domain == DEFAULT_DOMAIN else path
            raise Invalid(f"invalid reference format: repository name ({shown}) must be lowercase", subject=text)
        raise Invalid("invalid reference format", subject=text)
    if not _DOMAIN_ONLY.match(domain):
        raise Invalid("invalid reference format", subject=text)
    if len(path) > _NAME_MAX:
        raise Invalid(f"repository name must not be more than {_NAME_MAX} characters", subject=text)
