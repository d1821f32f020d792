"""``segdeploy eval``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from segdeploy.cli.options import (
    address_option,
    config_option,
    device_option,
    engine_option,
    json_option,
    max_pixels_option,
    print_table,
    refuse_others,
    resolve_samples,
    resolve_target,
    threads_option,
    typed_command,
    write_json,
)

if TYPE_CHECKING:
    from segdeploy.scores.report import EvaluationReport

_LINES_SHOWN = 20


@click.command("eval")
@click.argument("target", required=False, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="The data set; by default the one in the model's config.")
@click.option("--split", default="val", show_default=True)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first images.")
@click.option("--mode", type=click.Choice(["whole", "slide"]), help="By default what the model's config says.")
@click.option("--crop", metavar="HxW", help="With slide; by default the config's, or what the model was made for.")
@click.option("--stride", metavar="HxW", help="With slide; by default the config's, or two thirds of the crop.")
@click.option("--scales", metavar="R,R,...", help="Average predictions at these factors of the image's own size.")
@click.option("--flip", is_flag=True, help="Average with the mirrored image.")
@click.option("--processes", default=1, show_default=True, type=click.IntRange(min=1), help="Share images and threads.")
@engine_option
@address_option
@click.option(
    "--journal", type=click.Path(path_type=Path), help="With ray: keeps what is counted; a later run goes on from it."
)
@click.option("--confusion", type=click.Path(path_type=Path), help="Draw the confusion matrix: a .svg or .png file.")
@config_option
@device_option
@threads_option
@max_pixels_option
@json_option
def command(
    target: Path | None,
    data: Path | None,
    split: str,
    limit: int | None,
    mode: str | None,
    crop: str | None,
    stride: str | None,
    scales: str | None,
    flip: bool,
    processes: int,
    engine: str,
    address: str | None,
    journal: Path | None,
    confusion: Path | None,
    config: str | None,
    device: str,
    threads: int | None,
    max_pixels: int | None,
    json_path: Path | None,
) -> None:
    """Per-class IoU and accuracy of TARGET, a checkpoint or an artifact's folder, as mmseg computes them.

    Without TARGET: the newest checkpoint under work_dirs/.

    mmseg's own test-time augmentation is --scales 0.5,0.75,1.0,1.25,1.5,1.75 --flip.
    """
    from segdeploy.export.shapes import parse_size
    from segdeploy.images.decode import MAX_PIXELS
    from segdeploy.runtime.augment import Augmentation
    from segdeploy.runtime.evaluation import evaluate_artifact
    from segdeploy.runtime.predictor import with_inference
    from segdeploy.scores.confusion_plot import check_confusion_path, draw_confusion

    refuse_others(click.get_current_context(), engine, {"ray": ("address", "journal")})
    augmentation = Augmentation(_parse_scales(scales), flip)
    crop_size = parse_size(crop, "--crop") if crop else None
    step = parse_size(stride, "--stride") if stride else None
    if confusion is not None:
        check_confusion_path(confusion)
    artifact = with_inference(resolve_target(target, config), mode, crop_size, step)  # type: ignore[arg-type]
    root, samples = resolve_samples(artifact, data, split)
    counting = None
    if engine == "ray":
        from segdeploy.serve.ray_batch import Spread, tally_in_ray

        spread = Spread(processes, device, threads, address, max_pixels or MAX_PIXELS)  # type: ignore[arg-type]  # as below
        counting = partial(tally_in_ray, artifact, samples[:limit], spread, augmentation=augmentation, journal=journal)
    report = evaluate_artifact(
        artifact,
        samples[:limit],
        root=root,
        split=split,
        total=len(samples),
        device=device,  # type: ignore[arg-type]  # click.Choice holds it
        threads=threads,
        processes=processes,
        augmentation=augmentation,
        max_pixels=max_pixels or MAX_PIXELS,
        command=typed_command(),
        counting=counting,
    )
    show_evaluation(report)
    write_json(json_path, report)
    if confusion is not None:
        title = f"{evaluation_title(report)}: per cent of each label's pixels"
        draw_confusion(confusion, report.confusion, [one.name for one in report.classes], title=title)
        click.echo(f"written: {confusion}", err=True)
    check_complete(report)


def show_evaluation(report: EvaluationReport) -> None:
    """The table and the three means, as mmseg prints them; whether they are of all images, and how each was run."""
    from segdeploy.scores.report import method_text

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    rows = [[one.name, number(one.iou), number(one.acc), f"{one.pixels:,}"] for one in report.classes]
    print_table(evaluation_title(report), ["class", "IoU", "Acc", "pixels"], rows)
    part = "" if report.complete else f"   of {report.images} of {report.data.chosen} images only"
    click.echo(f"aAcc {number(report.aacc)}   mIoU {number(report.miou)}   mAcc {number(report.macc)}{part}")
    click.echo(method_text(report.method))


def evaluation_title(report: EvaluationReport) -> str:
    """Model, data and device; whether some images are missing."""
    images = f"{report.images} images" if report.complete else f"INCOMPLETE: {report.images} of {report.data.chosen} images"
    return f"{report.target.name} on {report.data.split} ({images}, {report.running.device})"


def check_complete(report: EvaluationReport) -> None:
    """End with an error where an image could not be evaluated; each thing that is wrong has its line."""
    from segdeploy.base.errors import InputError
    from segdeploy.scores.report import unused_lines

    if report.complete:
        return
    lines = unused_lines(report)
    for line in lines[:_LINES_SHOWN]:
        click.echo(line, err=True)
    if len(lines) > _LINES_SHOWN:
        click.echo(f"and {len(lines) - _LINES_SHOWN} more such lines; --json FILE has all of them", err=True)
    raise InputError(
        expected=f"{report.data.chosen} images that can be evaluated",
        got=f"{len(report.unused)} that cannot, as said above",
        fix="the scores are of the others only: see what to do in the lines above",
    )


def _parse_scales(text: str | None) -> tuple[float, ...]:
    from segdeploy.base.errors import InputError

    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise InputError(expected="numbers for --scales, such as 0.5,1.0,1.5", got=f"'{text}'", fix="correct it") from error
