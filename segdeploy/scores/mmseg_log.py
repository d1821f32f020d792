"""The tables of scores that mmseg prints, read back out of a log or of any text that they were pasted into."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from segdeploy.base.errors import InputError

_RULE = re.compile(r"^\+(-+\+){2,}$")
_MEAN = re.compile(r"\b(aAcc|mIoU|mAcc):\s*([-+\d.]+|nan)")
_MEANS = ("aAcc", "mIoU", "mAcc")
# The means stand on the line of the same evaluation's end, a few lines behind its table.
_LINES_TO_MEANS = 12


@dataclass(frozen=True)
class LoggedScores:
    """One evaluation as mmseg logged it, in per cent, rounded to two digits; None where mmseg says nan.

    Attributes:
        classes: (name, IoU, Acc) in the model's order; Acc is None too where the table has no such column.
        means: those of aAcc, mIoU and mAcc that stand behind the table.
        tables: how many tables of classes the text holds; this is the last of them.
    """

    classes: tuple[tuple[str, float | None, float | None], ...]
    means: dict[str, float]
    tables: int


@dataclass(frozen=True)
class _Table:
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    end: int  # index of the line behind it


def parse_log(text: str, source: str) -> LoggedScores:
    """The last table of classes in a text.

    Args:
        text: a log of mmseg 0.x or 1.x, or only the table.
        source: what to call it in an error.

    Raises:
        InputError: there is no such table, or it holds no IoU, or a cell is no number.
    """
    lines = text.splitlines()
    tables = list(_tables(lines))
    of_classes = [table for table in tables if table.columns[0] == "Class"]
    if not of_classes:
        raise InputError(
            expected=f"scores in '{source}': JSON of 'segdeploy eval' or 'segdeploy bench', or a table as mmseg logs it",
            got="none",
            fix="the table has lines such as: | bicycle | 64.18 | 79.64 |",
        )
    table = of_classes[-1]
    if "IoU" not in table.columns:
        raise InputError(
            expected=f"a column IoU in the table in '{source}'",
            got=", ".join(table.columns),
            fix="evaluate with iou_metrics=['mIoU']",
        )
    iou, acc = table.columns.index("IoU"), table.columns.index("Acc") if "Acc" in table.columns else None
    classes = tuple(
        (row[0], _number(row[iou], row[0], source), None if acc is None else _number(row[acc], row[0], source))
        for row in table.rows
    )
    if not classes:
        raise InputError(expected=f"classes in the table in '{source}'", got="none", fix="check the file")
    names = [name for name, _, _ in classes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(expected=f"each class once in '{source}'", got=f"'{twice}' twice", fix="mend the table")
    return LoggedScores(classes, _means(lines, tables, table), len(of_classes))


def _tables(lines: Sequence[str]) -> Iterator[_Table]:
    """Every ``+---+`` table, complete or not."""
    index = 0
    while index < len(lines):
        if not _RULE.match(lines[index].strip()):
            index += 1
            continue
        block = []
        end = index
        while end < len(lines) and (_RULE.match(lines[end].strip()) or lines[end].strip().startswith("|")):
            if lines[end].strip().startswith("|"):
                block.append(lines[end].strip())
            elif block and end + 1 < len(lines) and not lines[end + 1].strip().startswith("|"):
                end += 1  # the rule at the foot: another table may follow at once
                break
            end += 1
        if block:
            columns = tuple(cell.strip() for cell in block[0].strip("|").split("|"))
            rows = tuple(_cells(line, len(columns)) for line in block[1:])
            yield _Table(columns, rows, end)
        index = max(end, index + 1)


def _cells(line: str, count: int) -> tuple[str, ...]:
    # From the right: a class's name may hold a bar, a figure does not.
    cells = tuple(cell.strip() for cell in line[1:].removesuffix("|").rsplit("|", count - 1))
    return cells + ("",) * (count - len(cells))


def _means(lines: Sequence[str], tables: Sequence[_Table], table: _Table) -> dict[str, float]:
    """On one line in mmseg 1.x; in mmseg 0.x in a table of their own."""
    later = [one for one in tables if one.end > table.end]
    if later and set(later[0].columns) & set(_MEANS) and len(later[0].rows) == 1:
        values = dict(zip(later[0].columns, later[0].rows[0], strict=True))
        return {name: number for name in _MEANS if (number := _finite(values.get(name, ""))) is not None}
    for line in lines[table.end : table.end + _LINES_TO_MEANS]:
        found = {name: number for name, text in _MEAN.findall(line) if (number := _finite(text)) is not None}
        if "mIoU" in found:
            return found
    return {}


def _number(text: str, name: str, source: str) -> float | None:
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(
            expected=f"figures of '{name}' in the table in '{source}'", got=f"'{text}'", fix="copy the whole table"
        ) from error
    return None if math.isnan(value) else value


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
