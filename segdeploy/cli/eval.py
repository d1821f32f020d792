"""``segdeploy eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from segdeploy.cli.options import (
    config_option,
    device_option,
    json_option,
    print_table,
    resolve_samples,
    resolve_target,
    threads_option,
    write_json,
)

if TYPE_CHECKING:
    from segdeploy.core.metrics import Evaluation


@click.command("eval")
@click.argument("target", required=False, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="The data set; by default the one in the model's config.")
@click.option("--split", default="val", show_default=True)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first images.")
@config_option
@device_option
@threads_option
@json_option
def command(
    target: Path | None,
    data: Path | None,
    split: str,
    limit: int | None,
    config: str | None,
    device: str,
    threads: int | None,
    json_path: Path | None,
) -> None:
    """Per-class IoU and accuracy of TARGET, a checkpoint or an artifact's folder, as mmseg computes them.

    Without TARGET: the newest checkpoint under work_dirs/.
    """
    from segdeploy.runtime import open_session
    from segdeploy.runtime.evaluate import evaluate

    artifact = resolve_target(target, config)
    samples = resolve_samples(artifact, data, split, limit)
    with open_session(artifact, device, threads) as session:  # type: ignore[arg-type]  # click.Choice holds it
        result = evaluate(session, samples, label=f"eval {artifact.name}")
        where = session.device
    show_evaluation(f"{artifact.name} on {split} ({result.images} images, {where})", result)
    write_json(json_path, result)


def show_evaluation(title: str, result: Evaluation) -> None:
    """The table and the three means, as mmseg prints them."""
    from rich.markup import escape

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    # A class may be called anything; rich would read [this] as a colour.
    rows = [[escape(one.name), number(one.iou), number(one.acc), f"{one.pixels:,}"] for one in result.classes]
    print_table(title, ["class", "IoU", "Acc", "pixels"], rows)
    click.echo(f"aAcc {result.aacc:.2f}   mIoU {result.miou:.2f}   mAcc {result.macc:.2f}")
