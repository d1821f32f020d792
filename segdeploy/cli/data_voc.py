"""``segdeploy data voc``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click


@click.command("voc")
@click.option("--root", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="Of the data sets.")
@click.option("--sbd", is_flag=True, help="With SBD's label maps: the 10,582 images of trainaug.")
@click.option(
    "--archive",
    "archives",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Take this file instead of fetching; it is recognised by its MD5. May be given twice.",
)
@click.option(
    "--subset", is_flag=True, help="It is a part of the data on purpose: hold neither MD5s nor numbers against the whole."
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes that convert; as many as usable CPUs by default.")
def command(root: Path, sbd: bool, archives: tuple[Path, ...], subset: bool, workers: int | None) -> None:
    """Fetch, unpack and convert PASCAL VOC 2012, as mmseg's configs read it.

    What is there already is not done again: an archive in ROOT, the unpacked VOCdevkit/VOC2012 and benchmark_RELEASE/dataset,
    label maps of an interrupted run.
    """
    from segdeploy.base.machine import usable_cpus
    from segdeploy.training.voc import WHOLE, prepare_voc

    say = partial(click.echo, err=True)
    done = prepare_voc(root, sbd=sbd, archives=archives, subset=subset, workers=workers or usable_cpus(), say=say)
    if done.images_copied:
        say(f"{done.images_copied} images taken from SBD: VOC's JPEGImages lacked them")
    if not done.changed:
        say("nothing to do: everything is there")
    counts = done.lists.counts()
    click.echo(f"{root}: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    if any(counts[name] != whole for name, whole in WHOLE.items() if name in counts):
        say("a subset: the whole has " + ", ".join(f"{name} {WHOLE[name]:,}" for name in WHOLE if name in counts))
    say(f"next: segdeploy train upernet_r50_voc12{'aug' if sbd else ''}_512x512_200e --data-root {root}")
