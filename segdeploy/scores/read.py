"""The scores that a comparison begins with: out of an evaluation's JSON, or out of a log of mmseg's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from segdeploy.base.errors import InputError
from segdeploy.base.records import Struct
from segdeploy.scores.mmseg_log import parse_log
from segdeploy.scores.report import EvaluationReport, decode_report, method_text

Kind: TypeAlias = Literal["evaluation", "benchmark"]
_KINDS = {"evaluation": "an evaluation", "benchmark": "a benchmark run"}


class Figures(Struct, frozen=True):
    """One class in one evaluation, in per cent; None where it does not occur or was not logged.

    Attributes:
        iou: intersection over union.
        acc: mmseg's Acc, the share of its labelled pixels that were found (recall).
        precision: the share of what was predicted as this class that is labelled so. It follows from the other two:
            with TP, FP, FN the pixels found, wrongly found and missed, IoU = TP / (TP + FP + FN), Acc = TP / (TP + FN).
    """

    iou: float | None
    acc: float | None
    precision: float | None


class Scores(Struct, frozen=True):
    """One evaluation.

    Attributes:
        source: the file.
        name: what was evaluated.
        miou: mean IoU in per cent.
        macc: mean Acc.
        aacc: share of all pixels that are right; None where it was not logged.
        classes: each class's figures, in the model's order.
        notes: what a reader must know of them.
        images: which images; None where it is not known. Must agree for a fair comparison, as must
        method: how each was run.
        complete: False where some of the images could not be evaluated.
    """

    source: str
    name: str
    miou: float | None
    macc: float | None
    aacc: float | None
    classes: dict[str, Figures]
    notes: tuple[str, ...] = ()
    images: str | None = None
    method: str | None = None
    complete: bool = True


def common_kind(old: Path, new: Path) -> Kind:
    """What the two files hold, by their content.

    Raises:
        InputError: a file is missing or holds neither, or the two differ in kind.
    """
    first, second = (_kind(path) for path in (old, new))
    if first != second:
        raise InputError(
            expected="two evaluations or two benchmark runs",
            got=f"'{old}', {_KINDS[first]}, and '{new}', {_KINDS[second]}",
            fix="name two of a kind",
        )
    return first


def read_scores(path: Path) -> Scores:
    """Scores out of what ``segdeploy eval --json`` wrote, or out of a text that holds mmseg's table.

    Raises:
        InputError: there are none in it.
    """
    data = _read(path)
    if _is_json(data):
        return _of_report(decode_report(data, str(path)), path)
    logged = parse_log(data.decode(errors="replace"), str(path))
    classes = {name: Figures(iou=iou, acc=acc, precision=precision(iou, acc)) for name, iou, acc in logged.classes}
    notes = []
    if logged.tables > 1:
        notes.append(f"'{path}' holds {logged.tables} tables of classes: the last one is taken.")
    if "mIoU" not in logged.means:
        notes.append(f"'{path}' states no means: they are computed from its table, whose figures are rounded.")
    return Scores(
        source=str(path),
        name=path.stem,
        miou=logged.means.get("mIoU", mean([one.iou for one in classes.values()])),
        macc=logged.means.get("mAcc", mean([one.acc for one in classes.values()])),
        aacc=logged.means.get("aAcc"),
        classes=classes,
        notes=tuple(notes),
    )


def precision(iou: float | None, acc: float | None) -> float | None:
    """Precision in per cent, from 1 / IoU = 1 / precision + 1 / Acc - 1; None where it cannot be known."""
    if not iou or not acc or iou > acc:
        return None
    return 100 / (100 / iou - 100 / acc + 1)


def mean(values: Sequence[float | None]) -> float | None:
    """Of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(expected=f"a file at '{path}'", got=str(error.strerror).lower(), fix="check the path") from error


def _is_json(data: bytes) -> bool:
    return data.lstrip().startswith(b"{")


def _kind(path: Path) -> Kind:
    data = _read(path)
    if not _is_json(data):
        return "evaluation"  # a log, or an error that says what was looked for
    fix = "make one with: segdeploy eval --json FILE, or: segdeploy bench --json FILE"
    try:
        fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError as error:
        raise InputError(expected=f"JSON in '{path}'", got=str(error), fix=fix) from error
    if "kind" in fields and bytes(fields["kind"]) == b'"evaluation"':
        return "evaluation"
    if {"rows", "environment"} <= fields.keys():
        return "benchmark"
    raise InputError(expected=f"an evaluation or a benchmark run in '{path}'", got="another JSON file", fix=fix)


def _of_report(report: EvaluationReport, path: Path) -> Scores:
    notes = []
    if not report.complete:
        notes.append(f"'{path}' is incomplete: {report.images} of {report.data.chosen} images could be evaluated.")
    return Scores(
        source=str(path),
        name=report.target.name,
        miou=report.miou,
        macc=report.macc,
        aacc=report.aacc,
        classes={
            one.name: Figures(iou=one.iou, acc=one.acc, precision=_counted_precision(report.confusion, index))
            for index, one in enumerate(report.classes)
        },
        notes=tuple(notes),
        images=f"{report.data.chosen} images of {report.data.split} ({report.data.names_sha256[:8]})",
        method=method_text(report.method),
        complete=report.complete,
    )


def _counted_precision(confusion: Sequence[Sequence[int]], index: int) -> float | None:
    predicted = sum(row[index] for row in confusion)
    return 100 * confusion[index][index] / predicted if predicted else None
