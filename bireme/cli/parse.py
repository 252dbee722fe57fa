"""From the words of a command line to `Arguments`, by the verb's table of options.

The grammar is that of Docker's flag library: `--name value`, `--name=value`, `-n value`, `-nvalue`, `-n=value`, bundles
of one-letter switches with a value for the last (`-itp 80:80`), `--switch=false`, `--` ends the options.
"""

from __future__ import annotations

from bireme.cli.errors import BadValue, UsageError
from bireme.cli.kinds import KINDS
from bireme.cli.option import HELP, UNLIMITED, Arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from bireme.cli.option import Option, Verb

_FLAG_ERROR = 125


class _Parser:
    def __init__(self, options: tuple[Option, ...]) -> None:
        self._long = {option.name: option for option in options}
        self._short = {option.short: option for option in options if option.short}
        self._long["help"] = HELP
        self.given: set[str] = set()
        self.values: dict[str, Any] = {"help": False}
        for option in options:
            kind = KINDS[option.kind]
            if kind.repeated:
                self.values[option.name] = []
            else:
                self.values[option.name] = kind.zero if option.default is None else option.default

    def take(self, word: str, words: Iterator[str]) -> None:
        """Read one word that starts with a dash, and its value if that is the next one."""
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            option = self._long.get(name)
            if not name or name.startswith("-") or word[2] == "=":
                raise UsageError(f"bad flag syntax: {word}", code=_FLAG_ERROR)
            if option is None:
                raise UsageError(f"unknown flag: --{name}", code=_FLAG_ERROR)
            if not equals:
                value = "true" if option.kind == "bool" else _next(words, f"flag needs an argument: --{name}")
            self._store(option, value)
        else:
            self._take_bundle(word[1:], words)

    def _take_bundle(self, letters: str, words: Iterator[str]) -> None:
        rest = letters
        while rest:
            letter, rest = rest[0], rest[1:]
            option = self._short.get(letter)
            if option is None:
                raise UsageError(f"unknown shorthand flag: {letter!r} in -{letter}{rest}", code=_FLAG_ERROR)
            if rest.startswith("="):
                value, rest = rest[1:], ""
            elif option.kind == "bool":
                value = "true"
            elif rest:
                value, rest = rest, ""
            else:
                value = _next(words, f"flag needs an argument: {letter!r} in -{letters}")
            self._store(option, value)

    def _store(self, option: Option, text: str) -> None:
        kind = KINDS[option.kind]
        try:
            value = kind.parse(text)
        except BadValue as error:
            spelled = f"-{option.short}, --{option.name}" if option.short else f"--{option.name}"
            raise UsageError(
                f'invalid argument "{text}" for "{spelled}" flag: {error.message}', code=_FLAG_ERROR
            ) from None
        self.given.add(option.name)
        if kind.repeated:
            self.values[option.name].append(value)
        else:
            self.values[option.name] = value


def _next(words: Iterator[str], complaint: str) -> str:
    for word in words:
        return word
    raise UsageError(complaint, code=_FLAG_ERROR)


def parse_words(options: tuple[Option, ...], words: list[str], interspersed: bool) -> Arguments:
    """Arguments of `words`; UsageError (exit code 125) for an unknown option or a bad value."""
    parser = _Parser(options)
    rest: list[str] = []
    source = iter(words)
    for word in source:
        if word == "--":
            rest.extend(source)
        elif word.startswith("-") and len(word) > 1:
            parser.take(word, source)
        else:
            rest.append(word)
            if not interspersed:
                rest.extend(source)
    return Arguments(parser.values, parser.given, rest)


def parse_verb(verb: Verb, command: str, words: list[str]) -> Arguments:
    """Like `parse_words`, with the number of positional arguments checked unless --help was asked for."""
    arguments = parse_words(verb.options, words, verb.interspersed)
    if not arguments["help"]:
        _check_count(verb, command, len(arguments.rest))
    return arguments


def _check_count(verb: Verb, command: str, count: int) -> None:
    low, high = verb.min_args, verb.max_args
    if low <= count <= high:
        return

    def number(value: int) -> str:
        return f"{value} argument" + ("" if value == 1 else "s")

    if high == 0:
        raise UsageError(f"'{command}' accepts no arguments", prefix=True)
    if high == UNLIMITED:
        raise UsageError(f"'{command}' requires at least {number(low)}", prefix=True, lead="See")
    if low == high:
        text = f"requires {number(low)}"
    elif low == 0:
        text = f"requires at most {number(high)}"
    else:
        text = f"requires at least {low} and at most {number(high)}"
    raise UsageError(f"'{command}' {text}", prefix=True)
