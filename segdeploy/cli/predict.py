"""``segdeploy predict``."""

from __future__ import annotations

from pathlib import Path

import click

from segdeploy.cli.options import (
    address_option,
    config_option,
    device_option,
    engine_option,
    json_option,
    max_pixels_option,
    refuse_others,
    resolve_target,
    threads_option,
    write_json,
)


@click.command("predict")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="[TARGET] FILE...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for masks and overlays.")
@click.option("--recursive", is_flag=True, help="Folders in folders too; their structure is kept.")
@click.option("--save", metavar="mask,overlay", help="What to write; of videos, by default the overlay alone.")
@click.option("--legend/--no-legend", default=True, show_default=True, help="Classes and their shares below the overlay.")
@click.option("--opacity", default=0.5, show_default=True, type=click.FloatRange(0, 1), help="Of the colours.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(min=1), help="Pictures or frames at once.")
@click.option("--url", help="Let a running server do it: http://HOST:8080/predictions/NAME.")
@click.option("--at-once", default=4, show_default=True, type=click.IntRange(min=1), help="With --url: pictures on their way.")
@engine_option
@click.option("--processes", default=1, show_default=True, type=click.IntRange(min=1), help="With ray: that have the model.")
@address_option
@max_pixels_option
@config_option
@device_option
@threads_option
@json_option
def command(
    paths: tuple[Path, ...],
    out: Path,
    recursive: bool,
    save: str | None,
    legend: bool,
    opacity: float,
    batch: int,
    url: str | None,
    at_once: int,
    engine: str,
    processes: int,
    address: str | None,
    max_pixels: int | None,
    config: str | None,
    device: str,
    threads: int | None,
    json_path: Path | None,
) -> None:
    """Segment pictures and videos, or all in a folder.

    Writes NAME_mask.png (label indices in the model's colours), NAME_overlay.png, and NAME_overlay.mp4 for a video. TARGET
    is a checkpoint or an artifact's folder; without it, the newest checkpoint under work_dirs/. A server that wants a token
    is given that in SEGDEPLOY_TOKEN.
    """
    from segdeploy.artifact.folder import MANIFEST_NAME
    from segdeploy.base.errors import InputError
    from segdeploy.images.decode import MAX_PIXELS
    from segdeploy.runtime import open_session
    from segdeploy.runtime.files import Drawing, find_jobs, predict_files
    from segdeploy.serve.client import Client
    from segdeploy.serve.remote import predict_remote

    refuse_others(click.get_current_context(), engine, {"local": ("batch", "url"), "ray": ("processes", "address")})
    first = paths[0]
    named = first.suffix == ".pth" or (first / MANIFEST_NAME).is_file()
    if not paths[named:]:
        raise InputError(expected="a picture or a folder of them", got="only a model", fix="name the pictures behind it")
    wanted = set(save.split(",")) if save is not None else {"overlay"}
    if not wanted <= {"mask", "overlay"} or not wanted:
        raise click.UsageError(f"--save takes mask, overlay or both, with a comma; not '{save}'")
    drawing = Drawing(
        masks="mask" in wanted if save is not None else None, overlays="overlay" in wanted, legend=legend, opacity=opacity
    )
    jobs = find_jobs(paths[named:], out, recursive=recursive)
    limit = max_pixels or MAX_PIXELS
    if url is not None:
        if named or config or threads or batch > 1 or device != "auto":
            got = "a TARGET, --config, --device, --threads or --batch beside it"
            raise InputError(expected="pictures alone with --url: the server has its model", got=got, fix="leave them out")
        with Client(url) as client:
            outcome = predict_remote(client, jobs, drawing, at_once=at_once, max_pixels=limit)
    elif engine == "ray":
        from segdeploy.serve.ray_batch import Spread, predict_in_ray

        spread = Spread(processes, device, threads, address, limit)  # type: ignore[arg-type]  # click.Choice holds it
        outcome = predict_in_ray(resolve_target(first if named else None, config), jobs, drawing, out, spread)
    else:
        artifact = resolve_target(first if named else None, config)
        with open_session(artifact, device, threads) as session:  # type: ignore[arg-type]  # click.Choice holds it
            outcome = predict_files(session, jobs, drawing, batch=batch, max_pixels=limit)
    write_json(json_path, [*outcome.done, *outcome.failed])
    click.echo(f"{len(outcome.done)} of {len(jobs)} files: {out}")
    for problem in outcome.problems[:-1]:
        click.echo(f"error: {problem}", err=True)
    if outcome.problems:
        raise outcome.problems[-1]
