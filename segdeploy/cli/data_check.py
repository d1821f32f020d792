"""``segdeploy data check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from segdeploy.cli.options import json_option, print_table, write_json

if TYPE_CHECKING:
    from segdeploy.training.check import CheckReport


@click.command("check")
@click.argument("target", metavar="FOLDER_OR_CONFIG")
@click.option("--classes", type=click.IntRange(1, 255), help="How many there are; by default what the data set says.")
@click.option("--plot", type=click.Path(path_type=Path), help="Class frequencies as a picture: .svg, .png or .pdf.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; as many as usable CPUs by default.")
@json_option
def command(target: str, classes: int | None, plot: Path | None, workers: int | None, json_path: Path | None) -> None:
    """Say everything that is wrong with a data set, and how often its classes occur.

    FOLDER_OR_CONFIG is a data set in VOC's layout or mmseg's, or a training config. Exit 1 where something is wrong.
    """
    from segdeploy.core.errors import InputError
    from segdeploy.core.palette import distinct_palette
    from segdeploy.training.check import check
    from segdeploy.training.check_plot import plot_frequencies
    from segdeploy.training.splits import find_dataset

    dataset = find_dataset(target)
    report = check(dataset, classes=classes, workers=workers)
    _show(report)
    write_json(json_path, report)
    if plot is not None:
        palette = dataset.palette if len(dataset.palette) == len(report.classes) else distinct_palette(len(report.classes))
        plot_frequencies(report, palette, plot)
        click.echo(f"written: {plot}", err=True)
    if report.faults:
        kinds = ", ".join(f"{one.count} x {one.kind}" for one in report.findings if one.severity == "fault")
        raise InputError(expected=f"a data set without faults at '{target}'", got=kinds, fix="see the list above")
    click.echo("no faults")


def _show(report: CheckReport) -> None:
    columns, rows = ["class"], [[name] for name in (*report.classes, "void")]
    for split in report.splits:
        columns += [f"{split.name}: % of pixels", "images"]
        labelled, everything = sum(split.pixels[:-1]), sum(split.pixels)
        for index, (row, pixels, images) in enumerate(zip(rows, split.pixels, split.images_with, strict=True)):
            whole = everything if index == len(report.classes) else labelled  # void is a share of all, a class of the labelled
            row += [f"{100 * pixels / whole:.3f}" if pixels else "-", f"{images:,}" if images else "-"]
    title = ", ".join(f"{split.name} {split.images:,} images" for split in report.splits)
    guessed = "; the number of classes is guessed from the labels" if report.classes_are_guessed else ""
    print_table(title + guessed, columns, rows)
    for finding in report.findings:
        click.echo(f"{finding.severity}: {finding.kind}: {finding.count}")
        for example in finding.examples:
            click.echo(f"    {example}")
        if finding.count > len(finding.examples):
            click.echo(f"    ... and {finding.count - len(finding.examples):,} more")
