"""Go templates: what they print, and what they complain about."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.cli.listing import Row
from bireme.cli.template import Template, TemplateError

_VALUE: dict[str, Any] = {
    "Name": "/web",
    "Count": 3,
    "Share": 1.5,
    "Big": 1e21,
    "On": True,
    "Nothing": None,
    "Empty": [],
    "Args": ["a", "b", "c"],
    "State": {"Pid": 42, "Running": True},
    "Config": {"Labels": {"com.x": "y<z>", "a": "b"}, "Env": ["A=1"]},
    "Ports": {"80/tcp": [{"HostPort": "8080"}], "443/tcp": None},
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain", "plain"),
        ("{{.Name}}", "/web"),
        ("{{ .State.Pid }}!", "42!"),
        ("{{.On}} {{.Nothing}} {{.Share}} {{.Count}} {{.Big}}", "true <no value> 1.5 3 1e+21"),
        ("{{.Args}} {{.State}} {{.Empty}}", "[a b c] map[Pid:42 Running:true] []"),
        ("{{.Config.Labels.zzz}}", "<no value>"),
        ('{{index .Config.Labels "com.x"}}{{index .Config.Labels "zzz"}}{{index .Args 1}}', "y<z>b"),
        ('{{(index (index .Ports "80/tcp") 0).HostPort}}', "8080"),
        ("{{json .Config.Labels}} {{json .Nothing}}", '{"com.x":"y<z>","a":"b"} null'),
        ("{{.Config.Labels | json}}", '{"com.x":"y<z>","a":"b"}'),
        ('{{join .Args ", "}} {{split "a:b" ":"}}', "a, b, c [a b]"),
        ("{{upper .Name}} {{lower `AB`}} {{title `hello big world`}}", "/WEB ab Hello Big World"),
        ('{{pad "x" 1 2}}| {{truncate .Name 2}} {{len .Args}} {{len .Name}}', " x  | /w 3 4"),
        ("{{println .Name .Count}}", "/web 3\n"),
        ('{{print "a" 1 2 "b"}}', "a1 2b"),
        (
            '{{printf "%-6s|%5d|%q|%v|%05.1f|%x|%%" .Name .Count .Name .Args .Share 255}}',
            '/web  |    3|"/web"|[a b c]|001.5|ff|%',
        ),
        ('{{printf "%d %s" "x"}}', "%!d(str=x) %!s(MISSING)"),
        ("{{if .On}}yes{{else}}no{{end}}", "yes"),
        ("{{if .Empty}}yes{{else if .Nothing}}maybe{{else}}no{{end}}", "no"),
        ("{{if and .On (eq .Count 3)}}y{{end}}{{if or .Nothing .Empty}}n{{end}}", "y"),
        ("{{if not .On}}a{{else}}b{{end}}{{if ne .Count 4}}c{{end}}{{if lt 1 2}}d{{end}}{{if ge 1 2}}e{{end}}", "bcd"),
        ("{{eq .Count 1 2 3}}", "true"),
        ("{{range .Args}}<{{.}}>{{end}}", "<a><b><c>"),
        ("{{range $i, $e := .Args}}{{$i}}{{$e}}{{end}}", "0a1b2c"),
        ("{{range $e := .Args}}{{$e}}{{$.Count}}{{end}}", "a3b3c3"),
        ("{{range $k, $v := .Ports}}{{$k}}={{len $v}} {{end}}", None),
        ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}} {{end}}", "a=b com.x=y<z> "),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ('{{range .Args}}{{if eq . "b"}}{{continue}}{{end}}{{.}}{{end}}', "ac"),
        ('{{range .Args}}{{if eq . "b"}}{{break}}{{end}}{{.}}{{end}}', "a"),
        ("{{with .State}}{{.Pid}}{{end}}{{with .Nothing}}x{{else}}y{{end}}", "42y"),
        ("{{with $x := .Count}}{{$x}}{{.}}{{end}}", "33"),
        ("{{$x := 5}}{{$x}}{{$x = 6}}{{$x}}", "56"),
        ("a {{- .Count -}}  b", "a3b"),
        ("a{{/* note */}}b{{- /* x */ -}} c", "abc"),
        ('{{`}}`}}{{"a\\"b\\n"}}', '}}a"b\n'),
        ('{{slice "hello" 1 3}} {{html "<a>"}}', "el &lt;a&gt;"),
        ("{{.Count | printf `%03d`}}", "003"),
        ("{{-3}} {{0x10}} {{1.5}} {{'a'}} {{true}}", "-3 16 1.5 97 true"),
    ],
)
def test_what_is_printed(template: str, text: str | None) -> None:
    if text is None:
        with pytest.raises(TemplateError):
            Template(template).render(_VALUE)
    else:
        assert Template(template).render(_VALUE) == text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{.Name", "template parsing error: template: :1: unclosed action"),
        ("{{foo}}", 'template parsing error: template: :1: function "foo" not defined'),
        ("{{if .On}}x", "template parsing error: template: :1: unexpected EOF"),
        ("{{end}}", "template parsing error: template: :1: unexpected {{end}}"),
        ("{{}}", "template parsing error: template: :1: missing value for command"),
        ("{{.Name | }}", "template parsing error: template: :1: missing value for command"),
        ("{{(.Name}}", "template parsing error: template: :1: unclosed left paren"),
        ('{{"open}}', "template parsing error: template: :1: unterminated quoted string"),
        ("{{define `x`}}{{end}}", "template parsing error: template: :1: {{define}} is not supported"),
        ("{{.Name %}}", "template parsing error: template: :1: unexpected '%' in command"),
    ],
)
def test_what_does_not_parse(template: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(template)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{.Foo}}", 'at <.Foo>: map has no entry for key "Foo"'),
        ("{{.State.Foo}}", 'at <.State.Foo>: map has no entry for key "Foo"'),
        ("{{.Nothing.Foo}}", "at <.Nothing.Foo>: nil pointer evaluating interface {}.Foo"),
        ("{{.Name.Foo}}", "can't evaluate field Foo in type str"),
        ('{{.Name "x"}}', "Name is not a method but has arguments"),
        ("{{index .Args 9}}", "error calling index: index out of range: 9"),
        ("{{len .Count}}", "error calling len: len of type int"),
        ("{{$nope}}", 'undefined variable "$nope"'),
        ("{{range .Name}}{{end}}", "range can't iterate over /web"),
        ("{{lt .Name 1}}", "incompatible types for comparison"),
        ("{{break}}", "outside {{range}}"),
        ("{{upper}}", "template: :1:2"),
    ],
)
def test_what_does_not_fit(template: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(template).render(_VALUE)
    assert message in caught.value.message


def test_fields_may_take_arguments() -> None:
    row = Row(
        {"ID": ("ID", lambda v: v["Id"]), "Label": ("", lambda v, name: v["Labels"].get(name, ""))},
        {"Id": "x", "Labels": {"a": "<b>"}},
    )
    assert Template('{{.ID}} {{.Label "a"}} {{json .}}').render(row) == 'x <b> {"ID":"x"}'
    with pytest.raises(TemplateError, match="can't evaluate field Foo"):
        Template("{{.Foo}}").render(row)


@given(st.text(alphabet='{}.|$ab"`()-:=/*, 1ifendrangewith', max_size=30))
def test_any_text_is_a_template_or_a_complaint(text: str) -> None:
    try:
        Template(text).render({"a": 1, "b": ["x"]})
    except TemplateError:
        pass
