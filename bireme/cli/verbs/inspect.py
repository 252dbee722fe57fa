"""inspect, alone and of containers, images, kernels, networks and volumes."""

from __future__ import annotations

from bireme.cli.errors import CommandFailed
from bireme.cli.messages import error_text
from bireme.cli.option import FORMAT_VALUE, UNLIMITED, Option, Verb
from bireme.client.errors import ApiError
from bireme.client.jsontext import dumps_indented, dumps_text
from bireme.errors import BiremeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bireme.cli.invocation import Invocation
    from bireme.cli.template import Template

    Finder = Callable[[str], dict[str, Any]]

_NOT_FOUND = 404
_BAD_TEMPLATE = 64


def _finders(invocation: Invocation) -> dict[str, Finder]:
    engine, size = invocation.engine, bool(invocation.args.values.get("size"))
    return {
        "container": lambda name: engine.container(name, size),
        "image": engine.image,
        "network": engine.network,
        "volume": engine.volume,
    }


def inspect_any(invocation: Invocation) -> int:
    finders = _finders(invocation)
    wanted = invocation.args["type"]
    if wanted and wanted not in finders:
        raise CommandFailed(f'unknown type: "{wanted}": must be one of "' + '", "'.join(finders) + '"')
    if wanted:
        return _inspect(invocation, finders[wanted])

    def find(name: str) -> dict[str, Any]:
        for finder in finders.values():
            try:
                return finder(name)
            except ApiError as error:
                if error.status != _NOT_FOUND:
                    raise
        raise CommandFailed(f"Error: No such object: {name}")

    return _inspect(invocation, find)


def _inspect(invocation: Invocation, find: Finder) -> int:
    """Print everything that was found, then what was wrong with the rest."""
    form = invocation.args["format"]
    found, errors = [], []
    for name in invocation.args.rest:
        try:
            found.append(find(name))
        except CommandFailed as failure:
            errors.append(failure.message)
        except BiremeError as error:
            errors.append(error_text(error))
    if form in ("", "json"):
        invocation.out(dumps_indented(found) if not form else dumps_text(found))
    else:
        template = _template(form)
        for value in found:
            invocation.out(template.render(value))
        if not found:
            invocation.out("")
    for message in errors:
        invocation.err(message)
    return 1 if errors else 0


def _template(form: str) -> Template:
    from bireme.cli.template import Template, TemplateError

    try:
        return Template(form)
    except TemplateError as error:
        raise CommandFailed(error.message, _BAD_TEMPLATE) from None


def _only(kind: str) -> Callable[[Invocation], int]:
    return lambda invocation: _inspect(invocation, _finders(invocation)[kind])


_FORMAT = Option("format", "string", FORMAT_VALUE, "f")

VERBS = {
    "inspect": Verb(
        inspect_any,
        "[OPTIONS] NAME|ID [NAME|ID...]",
        "Return low-level information on objects",
        (
            _FORMAT,
            Option("size", "bool", "Display total file sizes if the type is container", "s"),
            Option("type", "string", "Only inspect objects of the given type"),
        ),
        args=(1, UNLIMITED),
        complete="containers",
    ),
    "container inspect": Verb(
        _only("container"),
        "[OPTIONS] CONTAINER [CONTAINER...]",
        "Display detailed information on one or more containers",
        (_FORMAT, Option("size", "bool", "Display total file sizes", "s")),
        args=(1, UNLIMITED),
        complete="containers",
    ),
    "image inspect": Verb(
        _only("image"),
        "[OPTIONS] IMAGE [IMAGE...]",
        "Display detailed information on one or more images",
        (_FORMAT,),
        args=(1, UNLIMITED),
        complete="images",
    ),
    "kernel inspect": Verb(
        lambda invocation: _inspect(invocation, invocation.engine.kernel),
        "[OPTIONS] KERNEL [KERNEL...]",
        "Display detailed information on one or more kernels",
        (_FORMAT,),
        args=(1, UNLIMITED),
        complete="kernels",
    ),
    "network inspect": Verb(
        _only("network"),
        "[OPTIONS] NETWORK [NETWORK...]",
        "Display detailed information on one or more networks",
        (_FORMAT,),
        args=(1, UNLIMITED),
        complete="networks",
    ),
    "volume inspect": Verb(
        _only("volume"),
        "[OPTIONS] VOLUME [VOLUME...]",
        "Display detailed information on one or more volumes",
        (_FORMAT,),
        args=(1, UNLIMITED),
        complete="volumes",
    ),
}
