"""``segdeploy data check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from segdeploy.cli.options import json_option, print_table, write_json

if TYPE_CHECKING:
    from segdeploy.training.check import CheckReport


@click.command("check")
@click.argument("source", metavar="FOLDER_OR_CONFIG")
@click.option("--data-root", type=click.Path(path_type=Path), help="With a config: the data set, in place of the config's.")
@click.option("--classes", type=click.IntRange(1, 255), help="How many there are; by default what the data set says.")
@click.option("--plot", type=click.Path(path_type=Path), help="Class frequencies as a picture: .svg, .png or .pdf.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; as many as usable CPUs by default.")
@json_option
def command(
    source: str, data_root: Path | None, classes: int | None, plot: Path | None, workers: int | None, json_path: Path | None
) -> None:
    """Say everything that is wrong with a data set, and how often its classes occur.

    FOLDER_OR_CONFIG is a data set in VOC's layout or mmseg's, or a training config, which names the classes too. Exit 1 where
    something is wrong.

    \b
    Example: segdeploy data check upernet_r18_camvid_192x256_50e --data-root data/camvid --plot classes.png
    """  # noqa: D301  the backslash is click's: it keeps the line as it is
    from segdeploy.base.errors import InputError
    from segdeploy.base.machine import usable_cpus
    from segdeploy.training.check import check
    from segdeploy.training.check_plot import check_plot_path, plot_frequencies
    from segdeploy.training.splits import find_dataset

    if plot is not None:
        check_plot_path(plot)
    report = check(find_dataset(source, data_root), classes=classes, workers=workers or usable_cpus())
    _show(report)
    write_json(json_path, report)
    if plot is not None:
        plot_frequencies(report, plot)
        click.echo(f"written: {plot}", err=True)
    if report.faults:
        kinds = ", ".join(f"{one.count} x {one.kind}" for one in report.findings if one.severity == "fault")
        raise InputError(expected=f"a data set without faults at '{source}'", got=kinds, fix="see the list above")
    click.echo("no faults")


def _show(report: CheckReport) -> None:
    columns, rows = ["class"], [[name] for name in (*report.classes, "void")]
    for split in report.splits:
        columns += [f"{split.name}: % of pixels", "images"]
        labelled, everything = sum(split.pixels[:-1]), sum(split.pixels)
        for index, (row, pixels, images) in enumerate(zip(rows, split.pixels, split.images_with, strict=True)):
            whole = everything if index == len(report.classes) else labelled  # void is a share of all, a class of the labelled
            share = 100 * pixels / whole if pixels else 0
            row += [f"{share:.3f}" if share >= 0.001 else "<0.001" if pixels else "-", f"{images:,}" if images else "-"]
    print_table(", ".join(f"{split.name} {split.images:,} images" for split in report.splits), columns, rows)
    for finding in report.findings:
        click.echo(f"{finding.severity}: {finding.kind}: {finding.count:,}")
        for example in finding.examples:
            click.echo(f"    {example}")
        if finding.count > len(finding.examples):
            click.echo(f"    ... and {finding.count - len(finding.examples):,} more")
    if report.classes_are_guessed:
        click.echo("the number of classes is guessed from the labels: pass --classes, or a config that names them", err=True)
