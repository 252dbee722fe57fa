"""The words of a Dockerfile instruction: quotes, backslashes and variables as Docker's shell lexer reads them."""

from __future__ import annotations

from collections.abc import Mapping

from bireme.errors import Invalid


def words(text: str, variables: Mapping[str, str]) -> list[str]:
    """`text` split at blanks outside quotes, quotes taken off, $NAME and ${NAME} (also :- and :+) replaced."""
    lexer = _Lexer(text, variables)
    return lexer.words()


def pairs(instruction: str, text: str, variables: Mapping[str, str]) -> list[tuple[str, str]]:
    """NAME=VALUE words, or the old form of one NAME and the rest of the line as its value; Invalid when neither."""
    first = text.split(None, 1)
    if "=" not in first[0]:
        if len(first) < 2:
            raise Invalid(f"{instruction} must have two arguments", subject=text)
        return [(first[0], " ".join(words(first[1], variables)))]
    found = []
    for word in words(text, variables):
        name, equals, value = word.partition("=")
        if not equals:
            raise Invalid(f"Syntax error - can't find = in {word!r}. Must be of the form: name=value", subject=text)
        if not name:
            raise Invalid(f"{instruction} names can not be blank", subject=text)
        found.append((name, value))
    return found


class _Lexer:
    def __init__(self, text: str, variables: Mapping[str, str]) -> None:
        self._text = text
        self._variables = variables
        self._at = 0

    def words(self) -> list[str]:
        found: list[str] = []
        while self._at < len(self._text):
            if self._text[self._at].isspace():
                self._at += 1
            else:
                found.append(self._word())
        return found

    def _word(self) -> str:
        parts: list[str] = []
        while self._at < len(self._text) and not self._text[self._at].isspace():
            parts.append(self._piece())
        return "".join(parts)

    def _piece(self) -> str:
        character = self._next()
        if character == "'":
            end = self._text.find("'", self._at)
            if end < 0:
                raise Invalid("unexpected end of statement while looking for matching single-quote")
            quoted, self._at = self._text[self._at : end], end + 1
            return quoted
        if character == '"':
            return self._double()
        if character == "\\":
            return self._next() if self._at < len(self._text) else "\\"
        return self._variable() if character == "$" else character

    def _next(self) -> str:
        self._at += 1
        return self._text[self._at - 1]

    def _double(self) -> str:
        parts: list[str] = []
        while self._at < len(self._text):
            character = self._next()
            if character == '"':
                return "".join(parts)
            if character == "\\" and self._text[self._at : self._at + 1] in ('"', "$", "\\"):
                character = self._next()
            elif character == "$":
                character = self._variable()
            parts.append(character)
        raise Invalid("unexpected end of statement while looking for matching double-quote")

    def _variable(self) -> str:
        if self._text[self._at : self._at + 1] != "{":
            start = self._at
            while self._at < len(self._text) and (self._text[self._at].isalnum() or self._text[self._at] == "_"):
                self._at += 1
            name = self._text[start : self._at]
            return self._variables.get(name, "") if name else "$"
        end = self._text.find("}", self._at)
        if end < 0:
            raise Invalid("syntax error: missing '}' in a substitution", subject=self._text)
        inner, self._at = self._text[self._at + 1 : end], end + 1
        for modifier in (":-", ":+"):
            name, found, other = inner.partition(modifier)
            if found:
                value = self._variables.get(name, "")
                return (value or other) if modifier == ":-" else (other if value else "")
        if not inner or not inner.replace("_", "a").isalnum():
            raise Invalid(f"unsupported modifier in substitution: ${{{inner}}}", subject=self._text)
        return self._variables.get(inner, "")
