"""The grammar of the command line."""

from __future__ import annotations

import pytest

from bireme.cli.errors import UsageError
from bireme.cli.option import Option
from bireme.cli.parse import parse_words

_OPTIONS = (
    Option("all", "bool", "", "a"),
    Option("interactive", "bool", "", "i"),
    Option("label", "list", "", "l"),
    Option("last", "int", "", "n", default=-1),
    Option("name", "string", ""),
    Option("publish", "list", "", "p"),
    Option("proxy", "bool", "", default=True),
)


def _parse(*words: str, interspersed: bool = True) -> tuple[dict[str, object], list[str]]:
    arguments = parse_words(_OPTIONS, list(words), interspersed)
    return {name: arguments[name] for name in sorted(arguments.given)}, arguments.rest


@pytest.mark.parametrize(
    ("words", "values", "rest"),
    [
        ([], {}, []),
        (["-a"], {"all": True}, []),
        (["-ai"], {"all": True, "interactive": True}, []),
        (["-ap", "80:80", "x"], {"all": True, "publish": ["80:80"]}, ["x"]),
        (["-p80:80", "-p=81:81"], {"publish": ["80:80", "81:81"]}, []),
        (["--name", "x", "--name=y"], {"name": "y"}, []),
        (["--name="], {"name": ""}, []),
        (["--proxy=false"], {"proxy": False}, []),
        (["-a=0"], {"all": False}, []),
        (["x", "-a", "y"], {"all": True}, ["x", "y"]),
        (["-a", "--", "-i", "--"], {"all": True}, ["-i", "--"]),
        (["-"], {}, ["-"]),
        (["-n", "-5"], {"last": -5}, []),
        (["--label", "--name"], {"label": ["--name"]}, []),
        (["-h"], {}, None),
    ],
)
def test_words(words: list[str], values: dict[str, object], rest: list[str] | None) -> None:
    if rest is None:
        with pytest.raises(UsageError):
            _parse(*words)
    else:
        assert _parse(*words) == (values, rest)


def test_the_first_positional_argument_ends_options_where_a_command_follows() -> None:
    assert _parse("-a", "image", "-i", "--name", interspersed=False) == ({"all": True}, ["image", "-i", "--name"])


def test_defaults() -> None:
    arguments = parse_words(_OPTIONS, [], True)
    assert [arguments[name] for name in ("all", "last", "label", "name", "proxy")] == [False, -1, [], "", True]
    assert parse_words(_OPTIONS, [], True)["label"] is not arguments["label"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bad"], "unknown flag: --bad"),
        (["--bad=x"], "unknown flag: --bad"),
        (["-z"], "unknown shorthand flag: 'z' in -z"),
        (["-az"], "unknown shorthand flag: 'z' in -z"),
        (["--name"], "flag needs an argument: --name"),
        (["-ap"], "flag needs an argument: 'p' in -ap"),
        (["--=x"], "bad flag syntax: --=x"),
        (["---a"], "bad flag syntax: ---a"),
        (["-n", "x"], 'invalid argument "x" for "-n, --last" flag: strconv.ParseInt: parsing "x": invalid syntax'),
        (["--proxy=x"], 'invalid argument "x" for "--proxy" flag: strconv.ParseBool: parsing "x": invalid syntax'),
    ],
)
def test_complaints(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        _parse(*words)
    assert (caught.value.message, caught.value.code) == (message, 125)
