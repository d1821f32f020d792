"""What an evaluation leaves: the scores, the counts behind them, and everything that they depend on. Schema 1."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import Format, Inference, Precision, Resize
from segdeploy.base.errors import InputError
from segdeploy.base.records import Struct, decode_record
from segdeploy.images.dataset import Sample
from segdeploy.scores.confusion_matrix import ClassScore, ConfusionMatrix

SCHEMA = 1


class EvaluatedModel(Struct, frozen=True):
    """The model.

    Attributes:
        name: for tables.
        path: of its file.
        format: how it runs.
        precision: of its arithmetic.
        model_sha256: of its file.
        checkpoint_sha256: of the checkpoint that it is, or was exported from; None for random weights.
    """

    name: str
    path: str
    format: Format
    precision: Precision
    model_sha256: str
    checkpoint_sha256: str | None


class Data(Struct, frozen=True):
    """The images.

    Attributes:
        root: the data set's folder.
        split: which part of it.
        chosen: how many were to be evaluated.
        total: how many the split has.
        names_sha256: of the chosen samples' names, one a line: equal for the same images in the same order.
    """

    root: str
    split: str
    chosen: int
    total: int
    names_sha256: str


class Method(Struct, frozen=True):
    """How each image was run.

    Attributes:
        resize: what the test pipeline does; not used where there are scales.
        inference: the whole image at once, or overlapping crops.
        scales: factors of the image's own size whose predictions were averaged; empty for one size.
        flip: each of them mirrored too.
    """

    resize: Resize
    inference: Inference
    scales: tuple[float, ...]
    flip: bool


class Running(Struct, frozen=True):
    """Where it was computed.

    Attributes:
        device: where the model really ran.
        threads: CPU threads that were asked for; None for all usable ones.
        processes: how many shared the images.
        python: version.
        packages: version of each package that has a part in it.
    """

    device: str
    threads: int | None
    processes: int
    python: str
    packages: dict[str, str]


class Unused(Struct, frozen=True):
    """An image that could not be evaluated, and why, as in an error's line."""

    name: str
    expected: str
    got: str
    fix: str


class EvaluationReport(Struct, frozen=True):
    """One evaluation; the content of ``segdeploy eval --json``. Scores are in per cent, None where nothing occurs.

    Attributes:
        schema: 1.
        kind: tells this file from a benchmark's.
        started: when, ISO 8601 with the offset.
        command: what was typed.
        target: the model.
        data: the images.
        method: how each was run.
        running: where.
        images: how many were evaluated.
        complete: whether these are all that were chosen; otherwise the scores are of a part of the data.
        miou: mean IoU over the classes that occur.
        macc: mean accuracy over the classes that occur in the labels.
        aacc: share of all labelled pixels that are right.
        classes: each class, in the model's order.
        confusion: pixels [label][prediction], in the order of ``classes``.
        unused: the images that could not be evaluated.
    """

    schema: int
    kind: Literal["evaluation"]
    started: str
    command: str
    target: EvaluatedModel
    data: Data
    method: Method
    running: Running
    images: int
    complete: bool
    miou: float | None
    macc: float | None
    aacc: float | None
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    unused: tuple[Unused, ...]


def describe_model(artifact: Artifact) -> EvaluatedModel:
    """What a report says of a model."""
    manifest = artifact.manifest
    return EvaluatedModel(
        name=artifact.name,
        path=str(artifact.model_path.resolve()),
        format=manifest.format,
        precision=manifest.precision,
        model_sha256=manifest.files[0].sha256,
        checkpoint_sha256=manifest.lineage.checkpoint_sha256,
    )


def describe_data(root: Path, split: str, chosen: Sequence[Sample], total: int) -> Data:
    """What a report says of the images."""
    names = "\n".join(sample.name for sample in chosen)
    return Data(
        root=str(root.resolve()),
        split=split,
        chosen=len(chosen),
        total=total,
        names_sha256=hashlib.sha256(names.encode()).hexdigest(),
    )


def describe_running(device: str, threads: int | None, processes: int, packages: Mapping[str, str]) -> Running:
    """What a report says of the machine.

    Args:
        device: where the model really ran.
        threads: that were asked for.
        processes: how many shared the images.
        packages: version of each package that has a part in it.
    """
    return Running(
        device=device, threads=threads, processes=processes, python=platform.python_version(), packages=dict(packages)
    )


def make_report(
    matrix: ConfusionMatrix,
    names: tuple[str, ...],
    *,
    target: EvaluatedModel,
    data: Data,
    method: Method,
    running: Running,
    unused: tuple[Unused, ...],
    command: str,
    started: datetime,
) -> EvaluationReport:
    """Score what was counted.

    Args:
        matrix: the counts.
        names: of the classes.
        target: the model.
        data: the images.
        method: how each was run.
        running: where.
        unused: images that are not in the counts.
        command: what was typed, empty where it was started from Python.
        started: when, with its time zone.
    """
    scores = matrix.evaluation(names)
    return EvaluationReport(
        schema=SCHEMA,
        kind="evaluation",
        started=started.isoformat(timespec="seconds"),
        command=command,
        target=target,
        data=data,
        method=method,
        running=running,
        images=scores.images,
        complete=not unused,
        miou=_number(scores.miou),
        macc=_number(scores.macc),
        aacc=_number(scores.aacc),
        classes=scores.classes,
        confusion=tuple(tuple(row) for row in matrix.counts.tolist()),
        unused=unused,
    )


def method_text(method: Method) -> str:
    """How each image was run, in a line."""
    inference = method.inference
    text = "on whole images"
    if inference.crop and inference.stride:
        text = "on crops of {}x{}, stride {}x{}".format(*inference.crop, *inference.stride)
    if method.scales:
        text += ", at scales " + ", ".join(f"{scale:g}" for scale in method.scales)
    return text + (", mirrored too" if method.flip else "")


def unused_lines(report: EvaluationReport) -> list[str]:
    """The images that could not be evaluated, one line for all that have one thing wrong with them."""
    groups: dict[tuple[str, str], list[Unused]] = {}
    for one in report.unused:
        groups.setdefault((one.expected, one.fix), []).append(one)
    lines = []
    for (expected, fix), same in groups.items():
        more = f" and {len(same) - 1} more" if len(same) > 1 else ""
        lines.append(f"image '{same[0].name}'{more}: expected {expected}; got {same[0].got}; {fix}")
    return lines


def decode_report(data: bytes, source: str) -> EvaluationReport:
    """Parse what ``segdeploy eval --json`` wrote.

    Args:
        data: its content.
        source: what to call it in an error.

    Raises:
        InputError: another schema, or not valid; names the field.
    """
    again = "make it again with: segdeploy eval --json FILE"
    return decode_record(data, EvaluationReport, schema=SCHEMA, what="evaluation", source=source, again=again, error=InputError)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
