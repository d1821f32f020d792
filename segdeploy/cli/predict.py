"""``segdeploy predict``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from segdeploy.cli.options import config_option, device_option, resolve_target, threads_option


@click.command("predict")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="[TARGET] IMAGE...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for masks and overlays.")
@config_option
@device_option
@threads_option
def command(paths: tuple[Path, ...], out: Path, config: str | None, device: str, threads: int | None) -> None:
    """Segment pictures, or all in a folder: NAME_mask.png (label indices in colours) and NAME_overlay.png.

    TARGET is a checkpoint or an artifact's folder; without it, the newest checkpoint under work_dirs/.
    """
    from segdeploy.core.artifact import MANIFEST_NAME
    from segdeploy.core.errors import InputError, SegdeployError
    from segdeploy.core.files import write_file
    from segdeploy.core.imaging import encode_png, label_png, list_images, overlay, read_image
    from segdeploy.core.progress import track
    from segdeploy.runtime import open_session
    from segdeploy.runtime.predictor import predict_labels

    first = paths[0]
    named = first.suffix == ".pth" or (first / MANIFEST_NAME).is_file()
    images = [image for path in paths[named:] for image in (list_images(path) if path.is_dir() else [path])]
    if not images:
        raise InputError(expected="an image or a folder of images", got="only a model", fix="name the images behind it")
    twice = next((stem for stem, count in Counter(path.stem for path in images).items() if count > 1), None)
    if twice is not None:
        raise InputError(
            expected="images whose names differ", got=f"several called '{twice}'", fix="predict them into folders of their own"
        )
    artifact = resolve_target(first if named else None, config)
    problems: list[SegdeployError] = []
    with open_session(artifact, device, threads) as session:  # type: ignore[arg-type]  # click.Choice holds it
        for path in track(images, f"predict {artifact.name}", len(images)):
            try:
                image = read_image(path)
                labels = predict_labels(session, image)
            except SegdeployError as error:
                problems.append(error)  # one bad picture should not cost the others
                continue
            palette = artifact.manifest.palette
            write_file(out / f"{path.stem}_mask.png", label_png(labels, palette))
            write_file(out / f"{path.stem}_overlay.png", encode_png(overlay(image, labels, palette)))
    click.echo(f"{len(images) - len(problems)} of {len(images)} images: {out}/*_mask.png, {out}/*_overlay.png")
    for problem in problems[:-1]:
        click.echo(f"error: {problem}", err=True)
    if problems:
        raise problems[-1]
