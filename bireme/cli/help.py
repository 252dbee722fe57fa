"""--help, laid out as Docker lays it out, from the tables of options."""

from __future__ import annotations

import os

from bireme.cli.kinds import KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bireme.cli.index import Entry
    from bireme.cli.option import Option, Verb

_SLOP = 5
_NARROW = 24


def terminal_width(limit: int = 80) -> int:
    try:
        return min(os.get_terminal_size(1).columns or limit, limit) - 1
    except OSError:
        return limit - 1


def _cut(width: int, text: str) -> tuple[str, str]:
    if width + _SLOP > len(text):
        return text, ""
    head = text[:width]
    space = max(head.rfind(" "), head.rfind("\t"), head.rfind("\n"))
    if space <= 0:
        return text, ""
    newline = head.rfind("\n")
    split = newline if 0 < newline < space else space
    return text[:split], text[split + 1 :]


def wrap(indent: int, width: int, text: str) -> str:
    """`text` for a column that starts at `indent`; lines end before `width`, a short last word may stand over."""
    first, room = "", width - indent
    if room < _NARROW:
        indent, room = 16, width - 16
        first = "\n" + " " * indent
    margin = "\n" + " " * indent
    if room < _NARROW:
        return text.replace("\n", margin)
    lines = []
    rest = text
    while True:
        line, rest = _cut(room - _SLOP, rest)
        lines.append(line.replace("\n", margin))
        if not rest:
            return first + margin.join(lines)


def _default_text(option: Option) -> str:
    if option.shown_default:
        return f" (default {option.shown_default})"
    if option.default is None or option.default is False:
        return ""
    if isinstance(option.default, str):
        return f' (default "{option.default}")' if option.default else ""
    return f" (default {str(option.default).lower()})"


def format_options(options: tuple[Option, ...], width: int) -> str:
    rows: list[tuple[str, str]] = []
    for option in sorted(options, key=lambda option: option.name):
        if option.hidden:
            continue
        left = f"  -{option.short}, --{option.name}" if option.short else f"      --{option.name}"
        if option.kind != "bool":
            left += f" {KINDS[option.kind].label or option.kind}"
        rows.append((left, option.help + _default_text(option)))
    column = max(len(left) for left, _ in rows) + 3 if rows else 0
    return "\n".join(left.ljust(column) + wrap(column, width, text) for left, text in rows)


def usage_line(verb: Verb, command: str) -> str:
    return f"Usage:  {command} {verb.usage}".rstrip()


def verb_help(verb: Verb, command: str) -> str:
    """The whole help page of one verb."""
    parts = [usage_line(verb, command), verb.summary]
    if verb.details:
        parts.append(verb.details)
    if verb.aliases:
        parts.append("Aliases:\n  " + ", ".join(f"bireme {alias}" for alias in verb.aliases))
    if verb.options:
        parts.append("Options:\n" + format_options(verb.options, terminal_width()))
    return "\n\n".join(parts) + "\n"


def _rows(pairs: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"  {name.ljust(width)}  {summary}" for name, summary in pairs)


def group_help(group: str, summary: str, entries: list[Entry]) -> str:
    rows = sorted((entry.path.partition(" ")[2], entry.summary) for entry in entries)
    return (
        f"Usage:  bireme {group} COMMAND\n\n{summary}\n\nCommands:\n{_rows(rows)}\n\n"
        f"Run 'bireme {group} COMMAND --help' for more information on a command.\n"
    )


def top_help(common: list[Entry], groups: dict[str, str], others: list[Entry], options: tuple[Option, ...]) -> str:
    return (
        "Usage:  bireme [OPTIONS] COMMAND\n\nOne engine for containers and virtual machines\n\n"
        f"Common Commands:\n{_rows([(entry.short, entry.summary) for entry in common])}\n\n"
        f"Management Commands:\n{_rows(sorted(groups.items()))}\n\n"
        f"Commands:\n{_rows(sorted((entry.short, entry.summary) for entry in others))}\n\n"
        f"Global Options:\n{format_options(options, terminal_width())}\n\n"
        "Run 'bireme COMMAND --help' for more information on a command.\n"
    )
