"""The tables that a benchmark run prints at its end, and the targets read from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


class Ratio(float):
    """How many times: a number whose column gets a geometric mean."""

    def __str__(self) -> str:
        return f"{float(self):.2f}x"


class Share(float):
    """A part of something, printed in per cent."""

    def __str__(self) -> str:
        return f"{float(self):.0%}"


Row = dict[str, "str | Ratio | Share"]


def geometric_mean(values: Iterable[float]) -> float:
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms))


def column(rows: Sequence[Row], name: str, where: Callable[[Row], bool] = lambda row: True) -> list[float]:
    """The numbers of one column, of the rows that have it."""
    return [float(row[name]) for row in rows if name in row and where(row)]


def render(rows: Sequence[Row]) -> list[str]:
    """The table as text, with the geometric mean of each column of ratios below it where there are several rows."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    means = {
        name: Ratio(geometric_mean(column(rows, name)))
        for name in names
        if all(isinstance(row.get(name), Ratio) for row in rows)
    }
    if means and len(rows) > 1:
        rows = [*rows, {names[0]: "geometric mean", **means}]
    cells = [names, *([str(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in cells]


@dataclass(frozen=True)
class Target:
    """What a column of a table should come to."""

    name: str
    table: str
    column: str
    summary: Callable[[Iterable[float]], float]
    wanted: float
    at_least: bool = True
    where: Callable[[Row], bool] = lambda row: True

    def row(self, tables: dict[str, list[Row]]) -> Row | None:
        """None where the run did not measure it."""
        values = column(tables.get(self.table, []), self.column, self.where)
        if not values:
            return None
        reached = self.summary(values)
        met = reached >= self.wanted if self.at_least else reached <= self.wanted
        bound = "at least" if self.at_least else "at most"
        return {
            "target": self.name,
            "wanted": f"{bound} {self.wanted:g}",
            "measured": f"{reached:.2f}",
            "": "met" if met else "missed",
        }
