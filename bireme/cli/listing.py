"""Lists of things: tables with Docker's column widths, `json`, and templates, all from one table of fields per noun."""

from __future__ import annotations

from bireme.cli.golang import Fields, GoError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    Field = Callable[..., Any]

_MIN_WIDTH, _PADDING = 10, 3


def align(lines: Iterable[str], min_width: int = _MIN_WIDTH, padding: int = _PADDING) -> list[str]:
    """Tab-separated cells as columns, as Go's tabwriter sets them: a column is a run of lines that have that cell."""
    table = [line.split("\t") for line in lines]
    widths: list[list[int]] = [[0] * (len(cells) - 1) for cells in table]
    for column in range(max((len(row) for row in widths), default=0)):
        start = 0
        while start < len(table):
            end = start
            while end < len(table) and len(widths[end]) > column:
                end += 1
            width = max((len(table[row][column]) + padding for row in range(start, end)), default=0)
            for row in range(start, end):
                widths[row][column] = max(width, min_width)
            start = max(end, start + 1)
    return [
        "".join(cell.ljust(width) for cell, width in zip(cells, row, strict=False)) + cells[-1]
        for cells, row in zip(table, widths, strict=True)
    ]


class Row(Fields):
    """One thing in a listing: fields are computed when a template asks for them."""

    def __init__(self, fields: dict[str, tuple[str, Field]], value: dict[str, Any]) -> None:
        self._fields = fields
        self._value = value

    def field(self, name: str, arguments: list[Any], path: str) -> Any:
        if name not in self._fields:
            raise GoError(path, f"can't evaluate field {name} (there are: {', '.join(self._fields)})")
        return self._fields[name][1](self._value, *arguments)

    def plain(self) -> dict[str, Any]:
        names = sorted(name for name, (header, _) in self._fields.items() if header)
        return {name: self._fields[name][1](self._value) for name in names}


class _Headers(Fields):
    """The heading of every field, for the first line of a table."""

    def __init__(self, fields: dict[str, tuple[str, Field]]) -> None:
        self._fields = fields

    def field(self, name: str, arguments: list[Any], path: str) -> Any:
        if name not in self._fields:
            raise GoError(path, f"can't evaluate field {name} (there are: {', '.join(self._fields)})")
        if arguments:
            return str(arguments[0]).rpartition(".")[2].replace("-", " ").replace("_", " ")
        return self._fields[name][0]

    def plain(self) -> dict[str, str]:
        return {name: header for name, (header, _) in self._fields.items()}


class Listing:
    """`fields` maps a name to its heading ("" for one that {{json .}} leaves out) and how a value's is computed."""

    def __init__(self, fields: dict[str, tuple[str, Field]], columns: Sequence[str]) -> None:
        self._fields = fields
        self._columns = columns

    def lines(self, values: Iterable[dict[str, Any]], form: str = "") -> Iterable[str]:
        """What to print for `values` under --format `form`."""
        if form in ("", "table"):
            return self._table(values)
        if form == "json":
            from bireme.client.jsontext import dumps_html

            return (dumps_html(Row(self._fields, value).plain()) for value in values)
        return self._templated(values, form)

    def _table(self, values: Iterable[dict[str, Any]]) -> list[str]:
        columns = [self._fields[name] for name in self._columns]
        lines = ["\t".join(header for header, _ in columns)]
        lines += ("\t".join(str(compute(value)) for _, compute in columns) for value in values)
        return align(lines)

    def _templated(self, values: Iterable[dict[str, Any]], form: str) -> Iterable[str]:
        from bireme.cli.template import Template

        is_table = form.startswith("table")
        source = form.removeprefix("table").strip() if is_table else form
        template = Template(source.replace("\\t", "\t").replace("\\n", "\n"), "failed to parse template: ")
        what = "failed to execute template: "
        lines = (template.render(Row(self._fields, value), what) for value in values)
        return align([template.render(_Headers(self._fields), what), *lines]) if is_table else lines
