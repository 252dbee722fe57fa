"""The JSON codec against the standard library's."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.client import jsontext
from bireme.errors import Invalid

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(_VALUES)
def test_what_is_written_is_what_json_reads(value: object) -> None:
    assert json.loads(jsontext.dumps(value)) == value
    assert json.loads(jsontext.dumps_text(value)) == value
    assert json.loads(jsontext.dumps_indented(value)) == value
    assert json.loads(jsontext.dumps_html(value)) == value


@given(_VALUES)
def test_what_json_writes_is_what_is_read(value: object) -> None:
    assert jsontext.loads(json.dumps(value)) == value


@pytest.mark.parametrize("text", ["", "{", "[1", '{"a":1}x', "nul", "-", '"open', "[1,]", '{"a"}', "{1:2}", "\x00"])
def test_what_is_not_json_is_invalid(text: str) -> None:
    with pytest.raises(Invalid):
        jsontext.loads(text)


def test_scan_tells_where_the_value_ends() -> None:
    value, end = jsontext.scan(' {"a": [1, 2]} {"b": 3}')
    assert (value, end) == ({"a": [1, 2]}, 14)
    assert jsontext.scan(' {"a": [1, 2]} {"b": 3}', end)[0] == {"b": 3}


def test_text_for_people_keeps_letters() -> None:
    assert jsontext.dumps_text({"é": "a\n"}) == '{"é":"a\\n"}'
    assert jsontext.dumps("é") == '"\\u00e9"'


def test_indented_as_go_indents() -> None:
    assert jsontext.dumps_indented({"a": [1, {}], "b": [], "c": {}}) == (
        '{\n    "a": [\n        1,\n        {}\n    ],\n    "b": [],\n    "c": {}\n}'
    )


def test_html_escapes() -> None:
    assert jsontext.dumps_html({"a": "<b>&"}) == '{"a":"\\u003cb\\u003e\\u0026"}'


def test_without_the_extension_the_answers_are_the_same() -> None:
    assert jsontext._slow_scan('{"a": 1} x', 0) == ({"a": 1}, 8)
    assert jsontext._slow_dump({"a": [1, "é"]}) == jsontext.dumps({"a": [1, "é"]})
