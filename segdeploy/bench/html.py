"""The report as one HTML file that needs nothing else: style, plots and pictures are inside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import msgspec

from segdeploy.base.errors import MissingExtraError
from segdeploy.bench.pictures import Picture
from segdeploy.bench.plots import bar_plot, strip_plot
from segdeploy.bench.report import COLUMNS, by_shape, cells
from segdeploy.bench.result import BenchReport, BenchRow
from segdeploy.bench.stats import cautions, measured, row_labels, throughput
from segdeploy.bench.words import NO_FIGURE, headline, notes, number
from segdeploy.images.arrays import Image
from segdeploy.images.label_png import encode_png
from segdeploy.images.resize import resize_image

_LARGEST_PICTURE_WIDTH = 360


@dataclass(frozen=True)
class Section:
    """A further part of the page: a heading, some text, a table.

    Attributes:
        title: the heading.
        paragraphs: text under it.
        columns: heads of the table; the first column is text, the others stand to the right.
        rows: its cells; the words ``passed`` and ``failed`` are coloured.
    """

    title: str
    paragraphs: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def render_html(
    report: BenchReport,
    *,
    pictures: Sequence[Picture] = (),
    sections: Sequence[Section] = (),
    title: str = "Benchmark",
) -> str:
    """The page.

    Args:
        report: what was measured.
        pictures: photographs with truth and prediction.
        sections: shown between the headline and the benchmark's own tables.
        title: of the page.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise MissingExtraError(package="jinja2", extra="bench", purpose="the HTML page") from error
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("segdeploy.bench").joinpath("templates/report.html").read_text(encoding="utf-8")
    lead, *sentences = headline(report) or ("Nothing was measured.",)
    return environment.from_string(source).render(
        title=title,
        report=report,
        lead=lead,
        sentences=sentences,
        notes=notes(report),
        cautions=cautions(report),
        groups=[_group(report, rows) for rows in by_shape(report).values()],
        classes=_classes(report),
        sections=sections,
        pictures=[[(picture.name, caption, _data_uri(image)) for caption, image in picture.panels] for picture in pictures],
        facts=_facts(report),
        settings=_settings(report),
    )


def _group(report: BenchReport, rows: list[tuple[BenchRow, str]]) -> dict[str, Any]:
    """One input shape: its table and its plots."""
    texts = [(row, cells(report, row, label)) for row, label in rows]
    columns = [name for name in COLUMNS if any(text[name] != NO_FIGURE for _, text in texts)]
    devices = {row.device for row, _ in rows if row.device}
    if len(devices) == 1:
        columns.remove("device")  # the heading says it
    timed = [(row, label) for row, label in rows if row.timing]
    reference = next((i for i, (row, _) in enumerate(timed) if row.backend == "eager"), None)
    shape, device = rows[0][0].shape, next(iter(devices)) if len(devices) == 1 else ""
    return {
        "title": f"Backends at {shape[1]}x{shape[2]}, batch of {shape[0]}" + (f", on {device}" if device else "")
        if shape
        else "Not run",
        "columns": columns,
        "rows": texts,
        "strips": strip_plot([(label, row.timing.run_ms) for row, label in timed if row.timing], reference=reference)
        if timed
        else "",
        "bars": bar_plot([_bar(row, label) for row, label in timed], unit="images a second", reference=reference)
        if timed
        else "",
    }


def _bar(row: BenchRow, label: str) -> tuple[str, float, str]:
    rate = throughput(row)
    assert rate is not None
    quality = f" · mIoU {row.evaluation.miou:.2f}" if row.evaluation else ""
    return label, rate, number(rate, "ms") + quality


def _classes(report: BenchReport) -> dict[str, Any] | None:
    """IoU a class and backend; an artifact's evaluation is repeated in its rows of other shapes, and shown once."""
    labels = dict(zip(map(id, report.rows), row_labels(report), strict=True))
    scored = {labels[id(row)]: row.evaluation for row in measured(report) if row.evaluation}
    if not scored:
        return None
    names = list(dict.fromkeys(one.name for evaluation in scored.values() for one in evaluation.classes))
    tables = {label: {one.name: one for one in evaluation.classes} for label, evaluation in scored.items()}
    lines = []
    for name in names:
        found = [table.get(name) for table in tables.values()]
        pixels = next((one.pixels for one in found if one), 0)
        lines.append((name, f"{pixels:,}", [one.iou if one else None for one in found]))
    means = [evaluation.miou for evaluation in scored.values()]
    return {"labels": list(scored), "lines": lines, "means": means}


def _facts(report: BenchReport) -> list[tuple[str, str]]:
    where = report.environment
    load = where.load
    facts = [
        ("CPU", f"{where.cpu}, {where.cpus} usable"),
        ("memory", f"{where.memory_bytes / 2**30:.1f} GiB" if where.memory_bytes else "unknown"),
        ("GPU", "; ".join(where.gpus) or "none"),
        ("CPU governor", where.governor or "not readable"),
        ("load average", f"{_or_unknown(load.before)} before, {_or_unknown(load.after)} after"),
        ("other programs", f"{_or_unknown(load.other_cpus)} CPUs while timing"),
        ("system", f"{where.os}, Python {where.python}"),
    ]
    return facts + list(where.packages.items())


def _settings(report: BenchReport) -> list[tuple[str, str]]:
    values = msgspec.to_builtins(report.settings)
    values["shapes"] = ", ".join(f"{height}x{width}" for height, width in report.settings.shapes) or "as exported"
    batch = report.settings.batch
    values["batch"] = ", ".join(map(str, batch)) if isinstance(batch, tuple) else batch or "as exported"
    values["limit"] = report.settings.limit or "none"
    return [(name.replace("_s", " (s)") if name.endswith("_s") else name, str(value)) for name, value in values.items()]


def _or_unknown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _data_uri(image: Image) -> str:
    height, width = image.shape[:2]
    if width > _LARGEST_PICTURE_WIDTH:
        image = resize_image(image, round(height * _LARGEST_PICTURE_WIDTH / width), _LARGEST_PICTURE_WIDTH)
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()
