"""The filters parameter."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from bireme.api.docker.filters import Filters, read_filters
from bireme.api.http.message import Request
from bireme.errors import Invalid


def filters(value: Any) -> Filters:
    text = value if isinstance(value, str) else json.dumps(value)
    return read_filters(Request("GET", "/", f"filters={quote(text)}", {}, 1))


def test_both_spellings() -> None:
    assert filters({"a": {"x": True, "y": False}}).get("a") == ("x",)
    assert filters({"a": ["x", "y"]}).get("a") == ("x", "y")
    assert not read_filters(Request("GET", "/", "", {}, 1))


@pytest.mark.parametrize("value", ["[]", "7", "{", '{"a":1}', '{"a":{"x":1}}', '{"a":[1]}', '{"a":null}', "[" * 9999])
def test_refused(value: str) -> None:
    with pytest.raises(Invalid, match="invalid filter"):
        filters(value)


def test_matching() -> None:
    asked = filters({"n": ["ab"], "p": ["/a", "^b$"], "l": ["k", "v=1"], "e": []})
    assert asked.exact("n", "x", "ab")
    assert not asked.exact("n", "abc")
    assert asked.prefix("n", "abc")
    assert asked.pattern("p", "x/ab")
    assert asked.pattern("p", "b")
    assert not asked.pattern("p", "bb")
    assert asked.labels("l", {"k": "", "v": "1"})
    assert not asked.labels("l", {"k": "", "v": "2"})
    assert asked.exact("e", "anything")
    assert asked.exact("nothing", "anything")
    assert "e" in asked
    assert "nothing" not in asked
    assert not filters({"p": ["("]}).pattern("p", "x")


def test_booleans() -> None:
    assert filters({"b": ["1"]}).boolean("b", False)
    assert not filters({"b": ["false"]}).boolean("b", True)
    assert filters({}).boolean("b", True)
    for bad in (["x"], ["1", "0"], []):
        with pytest.raises(Invalid, match="invalid filter 'b="):
            filters({"b": bad}).boolean("b", True)


def test_names_are_checked() -> None:
    filters({"a": ["x"]}).check(("a", "b"))
    with pytest.raises(Invalid, match="invalid filter 'c'"):
        filters({"c": ["x"]}).check(("a", "b"))
