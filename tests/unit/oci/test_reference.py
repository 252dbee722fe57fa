from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.errors import BiremeError, Invalid
from bireme.oci.reference import Reference, check_tag, parse_reference

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("docker.io/a/b", "docker.io/a/b:latest", "a/b:latest"),
        ("a/b/c", "docker.io/a/b/c:latest", "a/b/c:latest"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("localhost:5000/x:y", "localhost:5000/x:y", "localhost:5000/x:y"),
        ("reg.example/x", "reg.example/x:latest", "reg.example/x:latest"),
        ("HOST/x", "HOST/x:latest", "HOST/x:latest"),
        ("[2001:db8::1]:5000/x", "[2001:db8::1]:5000/x:latest", "[2001:db8::1]:5000/x:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", f"busybox@{DIGEST}"),
        (f"busybox:1@{DIGEST}", f"docker.io/library/busybox:1@{DIGEST}", f"busybox:1@{DIGEST}"),
        ("a__b/c--d/e.f", "docker.io/a__b/c--d/e.f:latest", "a__b/c--d/e.f:latest"),
    ],
)
def test_spellings(text: str, canonical: str, familiar: str) -> None:
    reference = parse_reference(text)
    assert reference.canonical == canonical
    assert reference.familiar == familiar
    assert parse_reference(canonical) == parse_reference(familiar) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "busybox:",
        "busybox@",
        "@" + DIGEST,
        "-busybox",
        "busy..box",
        "busy___box",
        "a//b",
        "/a",
        "a/",
        "a b",
        "busybox:-x",
        "busybox:" + "x" * 129,
        "busybox@sha256:abc",
        "reg.example:port/x",
        "bad_host.example/x",
        "busybox\n",
        "../etc",
        "a/../b",
        "0" * 64,
        "x" * 300,
        "héllo",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_reference(text)


def test_upper_case_gets_dockers_words() -> None:
    with pytest.raises(Invalid, match=r"repository name \(BusyBox\) must be lowercase"):
        parse_reference("BusyBox")


def test_no_default_tag() -> None:
    assert parse_reference("busybox", default_tag="") == Reference("docker.io", "library/busybox")


def test_derived_references() -> None:
    reference = parse_reference("busybox:1")
    assert reference.with_tag("2").familiar == "busybox:2"
    assert reference.with_digest(DIGEST).familiar == f"busybox@{DIGEST}"
    with pytest.raises(Invalid):
        check_tag("a/b")


@given(st.text(max_size=60) | st.from_regex(r"[a-zA-Z0-9.:/@_\[\]-]{0,60}"))
def test_anything_parses_or_is_refused_and_canonical_is_stable(text: str) -> None:
    try:
        reference = parse_reference(text)
    except BiremeError:
        return
    assert parse_reference(reference.canonical) == reference
    assert parse_reference(reference.familiar) == reference
