"""``segdeploy data``."""

from __future__ import annotations

from pathlib import Path

import click

from segdeploy.cli import data_check, data_voc

_NAMED = 21


@click.group("data")
def command() -> None:
    """Make data sets, and check them."""


command.add_command(data_voc.command)
command.add_command(data_check.command)


@command.command("synth")
@click.option("--root", type=click.Path(path_type=Path), default=Path("data/synthetic"), show_default=True, help="Its folder.")
@click.option("--train", default=240, show_default=True, type=click.IntRange(min=1), help="Images for training.")
@click.option("--val", default=40, show_default=True, type=click.IntRange(min=1), help="Images for validation.")
@click.option("--size", metavar="HxW", default="128x128", show_default=True, help="Of the images; a few of val differ.")
@click.option("--classes", default=5, show_default=True, type=click.IntRange(min=2), help="Background included; up to 255.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Same seed, same images.")
def synth(root: Path, train: int, val: int, size: str, classes: int, seed: int) -> None:
    """Draw shapes over textures, labelled, in PASCAL VOC's layout: something to train on where there is no data."""
    from segdeploy.export.shapes import parse_size
    from segdeploy.training.synthetic import class_names, write_synthetic_voc

    write_synthetic_voc(root, train=train, val=val, size=parse_size(size, "--size"), classes=classes, seed=seed)
    names = ", ".join(class_names(min(classes, _NAMED))) + (f" and {classes - _NAMED} more" if classes > _NAMED else "")
    click.echo(f"{root}: {train} images to train, {val} to validate; {classes} classes: {names}")
    if classes == 5:  # as many as that config has
        click.echo(f"next: segdeploy train upernet_r18_synthetic --data-root {root}", err=True)
