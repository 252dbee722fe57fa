"""JSON as Go reads it."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.api.docker.bodies import CreateRequest, ExecCreateRequest
from bireme.api.docker.decode import decode
from bireme.errors import Invalid


def create(value: Any) -> CreateRequest:
    return decode(json.dumps(value).encode(), CreateRequest)


def test_keys_without_case_and_unknown_keys() -> None:
    body = create({"image": "x", "CMD": ["ls"], "hostConfig": {"NETWORKMODE": "none", "memory": 7, "Nope": {}}, "z": 1})
    assert (body.Image, body.Cmd) == ("x", ["ls"])
    assert (body.HostConfig.NetworkMode, body.HostConfig.Memory) == ("none", 7)


def test_last_duplicate_wins() -> None:
    assert decode(b'{"Image":"a","image":"b"}', CreateRequest).Image == "b"
    assert decode(b'{"image":"b","Image":"a"}', CreateRequest).Image == "a"


def test_null_leaves_a_field_alone() -> None:
    names = CreateRequest.__struct_fields__
    body = decode(json.dumps(dict.fromkeys(names)).encode(), CreateRequest)
    assert body == CreateRequest()
    assert decode(b"null", CreateRequest) == CreateRequest()


def test_null_inside_lists_and_maps_is_zero() -> None:
    body = create({"Env": ["A=1", None], "Labels": {"k": None}, "HostConfig": {"PortBindings": {"80/tcp": None}}})
    assert body.Env == ["A=1", ""]
    assert body.Labels == {"k": ""}
    assert body.HostConfig.PortBindings == {"80/tcp": []}


def test_keys_of_maps_keep_their_case() -> None:
    body = create({"Labels": {"Com.Example": "1", "com.example": "2"}, "HostConfig": {"Sysctls": {"Net.X": "1"}}})
    assert body.Labels == {"Com.Example": "1", "com.example": "2"}
    assert body.HostConfig.Sysctls == {"Net.X": "1"}


def test_command_as_one_string() -> None:
    body = create({"Cmd": "ls", "Entrypoint": ["a", None]})
    assert (body.Cmd, body.Entrypoint) == (["ls"], ["a", ""])
    assert decode(b'{"cmd":"ls"}', ExecCreateRequest).Cmd == ["ls"]


def test_nested_shapes() -> None:
    body = create({"hostconfig": {"mounts": [{"type": "bind", "bindoptions": {"propagation": "shared"}}]}})
    (mount,) = body.HostConfig.Mounts
    assert mount.BindOptions is not None
    assert mount.BindOptions.Propagation == "shared"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "invalid JSON: got EOF while reading request body"),
        (b"  \n", "invalid JSON: got EOF while reading request body"),
        (b"{", "invalid JSON: unexpected EOF"),
        (b'{"Image":', "invalid JSON: unexpected EOF"),
        (b'{"Image":"x"} {}', "unexpected content after JSON"),
        (b"{x}", "invalid JSON: invalid character 'x' looking for beginning of object key string"),
        (b'{"Image" 1}', "invalid JSON: invalid character '1' after object key"),
        (b"?", "invalid JSON: invalid character"),
        (b"[]", "invalid JSON: json: cannot unmarshal array into Go value of type CreateRequest"),
        (b'"x"', "invalid JSON: json: cannot unmarshal string into Go value of type CreateRequest"),
        (
            b'{"Image":1}',
            "invalid JSON: json: cannot unmarshal number into Go struct field CreateRequest.Image of type string",
        ),
        (
            b'{"HostConfig":{"Memory":"1"}}',
            "invalid JSON: json: cannot unmarshal string into Go struct field CreateRequest.HostConfig.Memory of type "
            "int64",
        ),
        (
            b'{"HostConfig":{"Memory":1.5}}',
            "invalid JSON: json: cannot unmarshal number into Go struct field CreateRequest.HostConfig.Memory of type "
            "int64",
        ),
        (
            b'{"HostConfig":{"Memory":99999999999999999999}}',
            "invalid JSON: json: cannot unmarshal number into Go struct field CreateRequest.HostConfig.Memory of type "
            "int64",
        ),
        (
            b'{"Tty":"yes"}',
            "invalid JSON: json: cannot unmarshal string into Go struct field CreateRequest.Tty of type bool",
        ),
        (
            b'{"Env":{"A":"1"}}',
            "invalid JSON: json: cannot unmarshal object into Go struct field CreateRequest.Env of type []string",
        ),
        (
            b'{"Labels":["a"]}',
            "invalid JSON: json: cannot unmarshal array into Go struct field CreateRequest.Labels of type "
            "map[string]string",
        ),
        (b'{"Image":"\xff"}', "invalid JSON"),
        (b"[" * 100_000, "invalid JSON"),
    ],
)
def test_refusals(text: bytes, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        decode(text, CreateRequest)
    assert caught.value.message.startswith(message)


def test_nul_is_refused_wherever_it_is() -> None:
    for value in ({"Cmd": ["a\0b"]}, {"Labels": {"a\0": ""}}, {"HostConfig": {"Binds": ["/a\0:/b"]}}):
        with pytest.raises(Invalid, match="must not contain NUL"):
            create(value)
    assert decode(rb'{"Cmd":["\\u0000"]}', CreateRequest).Cmd == [r"\u0000"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from([*CreateRequest.__struct_fields__, "hostconfig", "ENV"])


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_whatever_comes_is_read_or_refused(value: dict[str, Any]) -> None:
    with contextlib.suppress(Invalid):
        create(value)
