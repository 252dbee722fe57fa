"""The part of Go's text/template that people write after --format.

Fields and chains (`.Names`, `.State.Pid`, `(index .Ports 0).HostPort`), variables, pipes, if / else if / else, range
with one or two variables, with, break, continue, trim markers, comments, and the functions of Go and of Docker. Not
there: define, template and block. Values are what JSON gives (dict, list, str, int, float, bool, None) and `Fields`, an
object whose fields are computed and may take arguments (`.Label "com.example"`).
"""

from __future__ import annotations

from bireme.cli.golang import FUNCTIONS, Fields, GoError, show, truth
from bireme.errors import Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Scope = dict[str, Any]
    Evaluate = Callable[[Any, Scope], Any]
    Node = Callable[[Any, Scope, list[str]], None]

_WORD = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_KEYWORDS = ("if", "else", "end", "range", "with", "break", "continue", "define", "template", "block")


class TemplateError(Invalid):
    """The template is wrong, or does not fit the value."""


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


def _string_end(text: str, start: int) -> int:
    quote, index = text[start], start + 1
    while index < len(text) and text[index] != quote:
        index += 2 if text[index] == "\\" and quote != "`" else 1
    if index >= len(text):
        raise TemplateError("unterminated quoted string")
    return index + 1


def _pieces(source: str) -> Iterator[tuple[bool, str]]:
    """(is an action, text) of the whole template, with trim markers applied and comments dropped."""
    index, trim = 0, False
    while True:
        start = source.find("{{", index)
        literal = source[index:] if start < 0 else source[index:start]
        literal = literal.lstrip() if trim else literal
        if start < 0:
            yield False, literal
            return
        index = start + 2
        if source[index : index + 1] == "-" and source[index + 1 : index + 2].isspace():
            literal, index = literal.rstrip(), index + 1
        yield False, literal
        end = index
        while not source.startswith("}}", end):
            if end >= len(source):
                raise TemplateError("unclosed action")
            if source.startswith("/*", end):
                end = source.find("*/", end) + 2
                if end < 2:
                    raise TemplateError("unclosed comment")
                continue
            end = _string_end(source, end) if source[end] in "\"`'" else end + 1
        action = source[index:end]
        trim = action.endswith("-") and action[-2:-1].isspace()
        action = (action[:-1] if trim else action).strip()
        index = end + 2
        if not action.startswith("/*"):
            yield True, action


def _tokens(action: str) -> list[str]:
    """Words, fields (`.A`), variables, literals and marks; a space is kept as " " where it separates."""
    tokens: list[str] = []
    index = 0
    while index < len(action):
        char = action[index]
        end = index + 1
        if char.isspace():
            while action[end : end + 1].isspace():
                end += 1
            tokens.append(" ")
        elif char in "\"`'":
            end = _string_end(action, index)
            tokens.append(action[index:end])
        elif char in "|(),=" or action.startswith(":=", index):
            end += action.startswith(":=", index)
            tokens.append(action[index:end])
        elif char in _WORD or char in ".$-+":
            number = char.isdigit() or (char in "-+." and action[end : end + 1].isdigit())
            while end < len(action) and (action[end] in _WORD or (number and action[end] == ".")):
                end += 1
            tokens.append(action[index:end])
        else:
            raise TemplateError(f"unexpected {char!r} in command")
        index = end
    return tokens


def _literal(token: str) -> Any:
    """The value of a constant; None, True and False are values too, so absence is raised as KeyError."""
    if token[0] == "`":
        return token[1:-1]
    if token[0] in "\"'":
        text, index = [], 1
        while index < len(token) - 1:
            escaped = token[index] == "\\"
            index += escaped
            text.append(_ESCAPES.get(token[index], token[index]) if escaped else token[index])
            index += 1
        return ord(text[0]) if token[0] == "'" and text else "".join(text)
    if token[0].isdigit() or (token[0] in "-+." and token[1:2].isdigit()):
        try:
            return int(token, 0)
        except ValueError:
            pass
        try:
            return float(token)
        except ValueError:
            raise TemplateError(f"bad number syntax: {token!r}") from None
    return {"true": True, "false": False, "nil": None}[token]


class _Parser:
    def __init__(self, source: str) -> None:
        self._pieces = list(_pieces(source))
        self._position = 0

    def template(self) -> list[Node]:
        body, stop = self._body()
        if stop:
            raise TemplateError(f"unexpected {{{{{stop}}}}}")
        return body

    def _body(self) -> tuple[list[Node], str]:
        """Nodes up to {{end}}, {{else ...}} or the end of the template ("")."""
        nodes: list[Node] = []
        while self._position < len(self._pieces):
            is_action, text = self._pieces[self._position]
            self._position += 1
            if not is_action:
                if text:
                    nodes.append(_text(text))
                continue
            word = text.split(None, 1)[0] if text else ""
            if word in ("end", "else"):
                return nodes, text
            nodes.append(self._node(word, text))
        return nodes, ""

    def _node(self, word: str, text: str) -> Node:
        rest = text[len(word) :]
        if word in ("if", "with", "range"):
            return self._branch(word, rest)
        if word in ("break", "continue"):
            return _jump(_Break if word == "break" else _Continue)
        if word in ("define", "template", "block"):
            raise TemplateError(f"{{{{{word}}}}} is not supported")
        names, evaluate = _Pipeline(text).parse()
        return _assign(names, evaluate) if names else _print(evaluate)

    def _branch(self, word: str, rest: str) -> Node:
        names, evaluate = _Pipeline(rest).parse()
        body, stop = self._body()
        otherwise: list[Node] = []
        if stop.startswith("else"):
            tail = stop[4:].strip()
            if tail:
                otherwise = [self._node(tail.split(None, 1)[0], tail)]
            else:
                otherwise, stop = self._body()
        if not stop:
            raise TemplateError("unexpected EOF")
        if word == "range":
            return _range(names, evaluate, body, otherwise)
        return _condition(word == "with", names, evaluate, body, otherwise)


class _Pipeline:
    """One pipeline: `$x := command | command`."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text.strip())
        self._index = 0

    def parse(self) -> tuple[list[str], Evaluate]:
        names = self._declared()
        evaluate = self._pipe()
        if self._index < len(self._tokens):
            raise TemplateError(f"unexpected {self._tokens[self._index]!r} in command")
        return names, evaluate

    def _declared(self) -> list[str]:
        marks = [token for token in self._tokens if token != " "]
        for count in (1, 3):
            names = marks[0:count:2]
            if len(marks) > count and marks[count] in (":=", "=") and all(name[0] == "$" for name in names):
                if count == 3 and marks[1] != ",":
                    break
                self._index = self._tokens.index(marks[count]) + 1
                return names
        return []

    def _skip(self) -> str:
        while self._index < len(self._tokens) and self._tokens[self._index] == " ":
            self._index += 1
        return self._tokens[self._index] if self._index < len(self._tokens) else ""

    def _pipe(self) -> Evaluate:
        evaluate = self._command(None)
        while self._skip() == "|":
            self._index += 1
            evaluate = self._command(evaluate)
        return evaluate

    def _command(self, previous: Evaluate | None) -> Evaluate:
        operands: list[tuple[str, Any]] = []
        while self._skip() not in ("", "|", ")"):
            operands.append(self._operand())
        if not operands:
            raise TemplateError("missing value for command")
        if previous is not None:
            operands.append(("value", previous))
        return _call(operands)

    def _operand(self) -> tuple[str, Any]:
        token = self._tokens[self._index]
        self._index += 1
        if token == "(":
            inner = self._pipe()
            if self._skip() != ")":
                raise TemplateError("unclosed left paren")
            self._index += 1
            return self._chain(inner)
        if token[0] == "$":
            return self._chain(_variable(token))
        if token[0] == "." and not token[1:2].isdigit():
            return self._chain(_dot) if token == "." else self._chain(_dot, token[1:])
        try:
            value = _literal(token)
        except KeyError:
            if token not in FUNCTIONS:
                raise TemplateError(f"function {token!r} not defined".replace("'", '"')) from None
            return "function", FUNCTIONS[token]
        return "value", lambda dot, scope: value

    def _chain(self, base: Evaluate, first: str = "") -> tuple[str, Any]:
        names = [first] if first else []
        while self._index < len(self._tokens) and self._tokens[self._index][0] == "." != self._tokens[self._index]:
            names.append(self._tokens[self._index][1:])
            self._index += 1
        if not names:
            return "value", base
        return "field", (base, names)


def _dot(dot: Any, scope: Scope) -> Any:
    return dot


def _variable(name: str) -> Evaluate:
    def evaluate(dot: Any, scope: Scope) -> Any:
        if name not in scope:
            raise TemplateError(f'undefined variable "{name}"')
        return scope[name]

    return evaluate


def _look_up(value: Any, names: list[str], arguments: list[Any]) -> Any:
    path = ""
    for position, name in enumerate(names):
        path += f".{name}"
        given = arguments if position == len(names) - 1 else []
        if isinstance(value, Fields):
            value = value.field(name, given, path)
        elif given:
            raise GoError(path, f"{name} is not a method but has arguments")
        elif isinstance(value, dict):
            if name not in value and value and all(str(key)[:1].isupper() for key in value):
                raise GoError(path, f'map has no entry for key "{name}"')
            value = value.get(name)
        elif value is None:
            raise GoError(path, f"nil pointer evaluating interface {{}}.{name}")
        else:
            raise GoError(path, f"can't evaluate field {name} in type {type(value).__name__}")
    return value


def _call(operands: list[tuple[str, Any]]) -> Evaluate:
    """An operand alone is its value; a function or a computed field takes the others as arguments."""
    kind, target = operands[0]
    arguments = [_call([operand]) for operand in operands[1:]]
    if kind == "function":
        return lambda dot, scope: target(*(argument(dot, scope) for argument in arguments))
    if kind == "field":
        base, names = target
        return lambda dot, scope: _look_up(base(dot, scope), names, [a(dot, scope) for a in arguments])
    if arguments:
        raise TemplateError("can't give argument to non-function")
    evaluate: Evaluate = target
    return evaluate


def _text(text: str) -> Node:
    return lambda dot, scope, out: out.append(text)


def _print(evaluate: Evaluate) -> Node:
    return lambda dot, scope, out: out.append(show(evaluate(dot, scope)))


def _assign(names: list[str], evaluate: Evaluate) -> Node:
    return lambda dot, scope, out: scope.__setitem__(names[0], evaluate(dot, scope))


def _jump(kind: type[Exception]) -> Node:
    def node(dot: Any, scope: Scope, out: list[str]) -> None:
        raise kind

    return node


def _run(body: list[Node], dot: Any, scope: Scope, out: list[str]) -> None:
    for node in body:
        node(dot, scope, out)


def _condition(rebind: bool, names: list[str], evaluate: Evaluate, body: list[Node], otherwise: list[Node]) -> Node:
    def node(dot: Any, scope: Scope, out: list[str]) -> None:
        value = evaluate(dot, scope)
        if names:
            scope[names[0]] = value
        if truth(value):
            _run(body, value if rebind else dot, scope, out)
        else:
            _run(otherwise, dot, scope, out)

    return node


def _items(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return sorted(value.items())
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return [(number, number) for number in range(value)]
    if value is None:
        return []
    raise GoError("", f"range can't iterate over {show(value)}")


def _range(names: list[str], evaluate: Evaluate, body: list[Node], otherwise: list[Node]) -> Node:
    def node(dot: Any, scope: Scope, out: list[str]) -> None:
        items = _items(evaluate(dot, scope))
        for key, value in items:
            if len(names) == 2:
                scope[names[0]], scope[names[1]] = key, value
            elif names:
                scope[names[0]] = value
            try:
                _run(body, value, scope, out)
            except _Continue:
                continue
            except _Break:
                break
        if not items:
            _run(otherwise, dot, scope, out)

    return node


class Template:
    """A parsed template; TemplateError when it is malformed."""

    def __init__(self, source: str, complaint: str = "template parsing error: ") -> None:
        try:
            self._body = _Parser(source).template()
        except TemplateError as error:
            raise TemplateError(f"{complaint}template: :1: {error.message}") from None

    def render(self, value: Any, complaint: str = "template parsing error: ") -> str:
        """The text for one value; TemplateError, led by `complaint`, when a field or function does not fit it."""
        out: list[str] = []
        try:
            _run(self._body, value, {"$": value}, out)
        except GoError as error:
            place = f"<{error.place}>: " if error.place else ""
            raise TemplateError(f'{complaint}template: :1:2: executing "" at {place}{error.message}') from None
        except (TypeError, ValueError, LookupError) as error:
            raise TemplateError(f'{complaint}template: :1:2: executing "": {error}') from None
        except (_Break, _Continue):
            raise TemplateError("template: :1: {{break}} or {{continue}} outside {{range}}") from None
        return "".join(out)
