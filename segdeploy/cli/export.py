"""``segdeploy export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from segdeploy.artifact.manifest import FORMATS, PRECISIONS
from segdeploy.cli.options import (
    checked_name,
    config_option,
    max_pixels_option,
    one_of,
    repeatable_command,
    typed_command,
    warn_of_random_weights,
)

if TYPE_CHECKING:
    from segdeploy.artifact.manifest import Manifest
    from segdeploy.parity.inputs import Inputs

# Enough for a decision on mIoU: in float32 nothing flips; a lower precision takes as many as segdeploy verify does.
_VERIFY_IMAGES = {"fp32": 16, "fp16": 50, "bf16": 50, "int8": 50}
_NOISE = "VERIFIED ON SEEDED NOISE: there are no pictures. It shows a wrong graph, not a lost mIoU: pass --data or --images."
# Options that leave the artifact's files as they are.
_NO_DIFFERENCE = ("out", "verify", "images")


@click.command("export")
@click.argument("target", required=False, type=click.Path(path_type=Path))
@click.option("--to", "formats", required=True, multiple=True, help=f"{one_of(FORMATS)}; may be repeated.")
@click.option("--shape", metavar="HxW", help="A fixed input size. Without it N, H and W are dynamic.")
@click.option("--min-shape", metavar="HxW", help="The smallest input size.")
@click.option("--opt-shape", metavar="HxW", help="The size to optimise for; the training crop by default.")
@click.option("--max-shape", metavar="HxW", help="The largest input size.")
@click.option("--multiple", default=1, show_default=True, type=click.IntRange(min=1), help="What H and W are multiples of.")
@click.option("--batch", metavar="N|MIN:OPT:MAX", help="Images a batch.")
@click.option(
    "--fit",
    type=click.Choice(["auto", "resize", "pad", "tiles"]),
    default="auto",
    show_default=True,
    help="How pictures come to shapes that their own size is not one of; see docs/fit.md.",
)
@click.option("--opset", default=18, show_default=True, help="Of ONNX.")
@click.option(
    "--profile",
    "profiles",
    metavar="MIN:OPT:MAX",
    multiple=True,
    help="TensorRT: a range of [Nx]HxW to compile for; may be repeated. Other formats take the range that spans them.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="SM,...",
    help="TensorRT: compile ahead of time for these GPUs, such as sm89 or sm86,sm120. pt2: cpu or cuda.",
)
@click.option("--workspace", "workspace_mib", type=click.IntRange(min=1), help="TensorRT: scratch memory in MiB.")
@click.option(
    "--typing",
    type=click.Choice(["strong", "weak"]),
    default="strong",
    show_default=True,
    help="TensorRT 10: weak lets it choose where to lower the precision; strong, all that 11 knows, leaves it to the graph.",
)
@click.option("--timing-cache", type=click.Path(path_type=Path), help="TensorRT: by default a file in the user's cache folder.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="Of the arithmetic, in the ONNX graph. Input and outputs stay as they are.",
)
@click.option("--calib", type=click.Path(path_type=Path), help="fp16, int8: pictures to measure ranges on. Default: --data's.")
@click.option("--calib-images", default=32, show_default=True, type=click.IntRange(min=1), help="How many of them.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="A labelled data set: ranges are measured on its train split, the verdict is on its val split. Default: the config's.",
)
@click.option(
    "--max-miou-drop",
    default=0.5,
    show_default=True,
    type=click.FloatRange(min=0),
    help="int8: points of mIoU it may cost. The fewest layers are kept in fp32 to hold it.",
)
@click.option(
    "--keep/--no-keep", default=True, show_default=True, help="Keep layers in fp32 that need it, or fail and name them."
)
@click.option(
    "--restructure/--no-restructure",
    default=None,
    help="Convolve before upsampling, where that is the same function by fewer products, or export the plain graph. "
    "By default all but bf16 does.",
)
@click.option("--name", help="Of the artifact; by default that of the run or the file.")
@click.option("--out", type=click.Path(path_type=Path), default="exports", show_default=True, help="Folder of artifacts.")
@click.option("--verify/--no-verify", default=True, show_default=True, help="Hold the result against the checkpoint.")
@click.option("--images", type=click.Path(path_type=Path), help="Pictures to verify on; the validation set by default.")
@click.option(
    "--random-weights",
    is_flag=True,
    help="TARGET is a config (a path, a name, or mmseg::family/name): export it untrained, to learn its latency.",
)
@config_option
@max_pixels_option
@click.pass_context
def command(
    context: click.Context,
    target: Path | None,
    formats: tuple[str, ...],
    shape: str | None,
    min_shape: str | None,
    opt_shape: str | None,
    max_shape: str | None,
    multiple: int,
    batch: str | None,
    fit: str,
    opset: int,
    profiles: tuple[str, ...],
    targets: tuple[str, ...],
    workspace_mib: int | None,
    typing: str,
    timing_cache: Path | None,
    precision: str,
    calib: Path | None,
    calib_images: int,
    data: Path | None,
    max_miou_drop: float,
    keep: bool,
    restructure: bool | None,
    name: str | None,
    out: Path,
    verify: bool,
    images: Path | None,
    random_weights: bool,
    config: str | None,
    max_pixels: int | None,
) -> None:
    """Turn TARGET, a checkpoint (.pth), into an artifact, and prove that it is the same model.

    Without TARGET: the newest checkpoint under work_dirs/. With --random-weights TARGET is a config.
    """
    from segdeploy.base.errors import InputError
    from segdeploy.cli.defaults import newest_checkpoint
    from segdeploy.cli.inspect import describe_fit, describe_quantization
    from segdeploy.cli.verify import gate, show_verdicts
    from segdeploy.export.export import export_model
    from segdeploy.export.exporter import check_export
    from segdeploy.export.options import Calibration, Options
    from segdeploy.export.shapes import choose_shapes
    from segdeploy.images.decode import MAX_PIXELS
    from segdeploy.models.checkpoint import load_checkpoint
    from segdeploy.models.describe import crop_size, default_name, palette_note
    from segdeploy.models.random_weights import random_checkpoint_path, write_random_checkpoint
    from segdeploy.parity.verify import verify as run_verify

    checked_name(name)
    options = Options(
        opset,
        targets,
        workspace_mib << 20 if workspace_mib else None,
        typing=typing,  # type: ignore[arg-type]  # click.Choice holds it
        timing_cache=timing_cache,
        precision=precision,  # type: ignore[arg-type]  # click.Choice holds it
        calibration=Calibration(calib, data, calib_images, max_miou_drop, keep, max_pixels or MAX_PIXELS),
        restructure=restructure,
        fit=fit,  # type: ignore[arg-type]  # likewise
    )
    exporters = [check_export(fmt, options) for fmt in formats]  # what cannot be made is said before any work
    if random_weights:
        if target is None:
            raise InputError(expected="a config as TARGET with --random-weights", got="none", fix="name one")
        path, config = random_checkpoint_path(str(target), out, name), None
        checkpoint = write_random_checkpoint(str(target), path)
    else:
        path = target or newest_checkpoint()
        if path.suffix != ".pth" and "::" in str(path):
            fix = "pass a .pth file, or add --random-weights to export the config untrained"
            raise InputError(expected="a checkpoint as TARGET", got=f"the config '{path}'", fix=fix)
        checkpoint = load_checkpoint(path, config)
    if (note := palette_note(checkpoint)) is not None:
        click.echo(note, err=True)
    verdicts = []
    for exporter in exporters:
        fmt = exporter.name
        shapes = choose_shapes(
            crop_size(checkpoint.config),
            limits=exporter.limits,
            static=shape,
            smallest=min_shape,
            best=opt_shape,
            largest=max_shape,
            profiles=profiles,
            batch=batch,
            multiple=multiple,
        )
        called = name or default_name(checkpoint)
        click.echo(f"exporting {path} to {fmt} ...", err=True)
        folder = out / called / f"{fmt}-{precision}"
        again = repeatable_command(context, {"target": str(target or path), "formats": fmt}, _NO_DIFFERENCE)
        artifact = export_model(checkpoint, fmt, folder, name=called, shapes=shapes, options=options, command=again)
        size_mb = sum(entry.bytes for entry in artifact.manifest.files) / 1e6
        click.echo(f"{artifact.folder}  {size_mb:.1f} MB  {_describe(artifact.manifest.input.shape)}")
        told = [line for tell in (describe_fit, describe_quantization, exporter.tell) for line in tell(artifact.manifest)]
        click.echo("\n".join(f"  {line}" for line in told))
        if verify:
            inputs = _pictures(artifact.manifest, data, images, max_pixels)
            verdicts.append((str(artifact.folder), run_verify(artifact, config=config, inputs=inputs, command=typed_command())))
    if verdicts:
        show_verdicts(verdicts)
    warn_of_random_weights(artifact)
    gate(verdicts, skipped=False)  # an engine for another machine is exported rightly, only not verified here
    click.echo("next: segdeploy bench   |   segdeploy pack   |   segdeploy inspect " + str(artifact.folder))


def _pictures(manifest: Manifest, data: Path | None, images: Path | None, max_pixels: int | None) -> Inputs:
    """What the verdict is taken on; noise is said loudly."""
    from segdeploy.cli.verify import choose_inputs

    inputs = choose_inputs(manifest, None if images else data, "val", images, _VERIFY_IMAGES[manifest.precision], max_pixels)
    if inputs.noise:
        click.secho(_NOISE, fg="yellow", bold=True, err=True)
    return inputs


def _describe(axes: tuple[object, ...]) -> str:
    from segdeploy.artifact.axes import bounds

    texts = []
    for letter, axis in zip("NHW", axes, strict=False):
        low, _, high = bounds(axis)  # type: ignore[arg-type]
        texts.append(f"{letter} {low}" if low == high else f"{letter} {low}..{high}")
    return ", ".join(texts)
