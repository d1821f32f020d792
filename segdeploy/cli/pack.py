"""``segdeploy pack``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from segdeploy.cli.options import warn_of_random_weights

if TYPE_CHECKING:
    from segdeploy.artifact.folder import Artifact
    from segdeploy.serve.model_config import ModelConfig

SERVERS = ("torchserve", "triton", "ray")


@click.command("pack")
@click.argument("artifact", required=False, type=click.Path(path_type=Path))
@click.option("--to", "server", default="torchserve", show_default=True, type=click.Choice(SERVERS), help="What will serve it.")
@click.option("--name", help="Of the model, as it stands in the URL; by default the artifact's name.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Where to put it; by default what the server calls its own: model_store, ..."
)
@click.option(
    "--model-version", default="1.0", show_default=True, help="A running server takes a new one of NAME under another."
)
@click.option("--batch-size", default=1, show_default=True, type=click.IntRange(min=1), help="Requests run together.")
@click.option("--max-batch-delay", default=10, show_default=True, type=click.IntRange(min=0), help="ms that a request waits.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(min=1), help="Processes; they share the CPU.")
@click.option(
    "--queue", default=100, show_default=True, type=click.IntRange(min=1), help="Requests that wait; more are told 503."
)
@click.option("--bare", is_flag=True, help="For Triton: the network alone, its tensors in and out, in place of the predictor.")
@click.option("--image", help="For Ray: of every pod, with Ray and segdeploy.")
@click.option("--at", help="For Ray: where pods find the artifact: a folder in the image, or s3://..., gs://....")
@click.option("--unverified", is_flag=True, help="Pack it in spite of its parity verdict; its manifest says so for ever.")
def command(
    artifact: Path | None,
    server: str,
    name: str | None,
    out: Path | None,
    model_version: str,
    batch_size: int,
    max_batch_delay: int,
    workers: int,
    queue: int,
    bare: bool,
    image: str | None,
    at: str | None,
    unverified: bool,
) -> None:
    """Make what a server takes of ARTIFACT, such as TorchServe's archive (.mar), and print the line that serves it.

    Without ARTIFACT: the newest ONNX artifact under exports/ that passed on pictures, at the default tolerances.
    """
    from segdeploy.artifact.folder import open_artifact
    from segdeploy.serve.model_config import ModelConfig

    if bare and server != "triton":
        raise click.UsageError("--bare is for --to triton: no other server runs a network without the predictor")
    chosen = open_artifact(artifact) if artifact is not None else _newest(unverified=unverified)
    warn_of_random_weights(chosen)
    called = name or re.sub(r"[^A-Za-z0-9._-]+", "_", chosen.manifest.name).strip("._-")
    config = ModelConfig(workers=workers, batch_size=batch_size, max_batch_delay_ms=max_batch_delay, queue_size=queue)
    if server == "torchserve":
        place = out or Path("model_store")
        _to_torchserve(chosen, called, place, version=model_version, config=config, unverified=unverified)
    elif server == "triton":
        _to_triton(chosen, called, out or Path("model_repository"), config=config, bare=bare, unverified=unverified)
    else:
        _to_ray(chosen, called, out or Path("ray"), config=config, image=image, at=at, unverified=unverified)


def _to_torchserve(chosen: Artifact, called: str, out: Path, *, version: str, config: ModelConfig, unverified: bool) -> None:
    from segdeploy.serve.archive import pack
    from segdeploy.serve.lines import ask_line, start_line, stop_line
    from segdeploy.serve.torchserve_config import CONFIG_NAME, Addresses, write_config

    archive = pack(chosen, name=called, out=out, version=version, config=config, unverified=unverified)
    write_config(out / CONFIG_NAME, out, Addresses())
    _echo_packed(chosen, archive, archive.stat().st_size)
    click.echo("serve it (a token must come with every request; segdeploy serve is the safer way, see docs/serving.md):")
    click.echo(f"  {start_line(archive)}")
    click.echo("ask it, in the same folder (the answer is a PNG whose pixel values are the labels):")
    click.echo(f"  {ask_line(called)}")
    click.echo("stop it:")
    click.echo(f"  {stop_line()}")


def _to_triton(chosen: Artifact, called: str, out: Path, *, config: ModelConfig, bare: bool, unverified: bool) -> None:
    from segdeploy.serve.triton import pack_triton, start_line

    made = pack_triton(chosen, name=called, out=out, config=config, bare=bare, unverified=unverified)
    _echo_packed(chosen, made, sum(path.stat().st_size for path in made.rglob("*") if path.is_file()))
    click.echo("serve it (it listens on loopback; its Python needs segdeploy, unless the model is bare):")
    click.echo(f"  {start_line(out)}")
    if bare:
        click.echo(f"what goes in: RGB as decoded, {chosen.manifest.preprocess.resize.words} done; the rest is in the graph")
    else:
        click.echo("ask it with tritonclient: 'image' is BYTES [n, 1], a JPEG or PNG each; so is 'mask', a PNG of labels each")


def _to_ray(
    chosen: Artifact, called: str, out: Path, *, config: ModelConfig, image: str | None, at: str | None, unverified: bool
) -> None:
    from segdeploy.serve.ray_app import RaySettings
    from segdeploy.serve.ray_config import pack_ray

    settings = RaySettings(
        at or f"/models/{called}",
        called,
        max_replicas=config.workers,
        min_replicas=config.workers,
        batch_size=config.batch_size,
        batch_delay_ms=config.max_batch_delay_ms,
        max_queued=config.queue_size,
    )
    made = pack_ray(chosen, settings, image=image or f"{called.lower()}:latest", out=out, unverified=unverified)
    _echo_packed(chosen, made.manifest, made.manifest.stat().st_size)
    if at is None:
        click.echo(f"the image needs: COPY {chosen.folder} {settings.artifact}")
    click.echo("serve it:")
    click.echo(f"  kubectl apply -f {made.manifest}        with KubeRay")
    click.echo(f"  serve deploy {made.config}        on a Ray cluster that runs")
    click.echo("ask it, with the token that is in no other file:")
    click.echo(f"  curl -s -H @{made.header_file} http://HOST:8000/predictions/{called} -T IMAGE.jpg -o mask.png")


def _echo_packed(chosen: Artifact, made: Path, size_bytes: int) -> None:
    from segdeploy.serve.archive import concerns

    counting = chosen.manifest.verdict()
    verdict = f"{counting.verdict} on {counting.inputs}, {counting.device}" if counting else "never verified"
    click.echo(f"{made}  {size_bytes / 1e6:.1f} MB  from {chosen.name}, parity: {verdict}")
    for line in concerns(chosen):
        click.echo(f"packed all the same, as its manifest says from now on: {line}", err=True)


def _newest(*, unverified: bool) -> Artifact:
    from segdeploy.base.errors import ArtifactError
    from segdeploy.cli.defaults import opened_artifacts
    from segdeploy.serve.archive import concerns

    found = [one for one in opened_artifacts(()) if one.manifest.format == "onnx"]
    if not found:
        raise ArtifactError(
            expected="an ONNX artifact under exports/", got="none", fix="name an artifact, or: segdeploy export --to onnx"
        )
    found.sort(key=lambda one: one.model_path.stat().st_mtime)
    passed = [one for one in found if not concerns(one)]
    chosen = (passed if passed and not unverified else found)[-1]
    if chosen is not found[-1]:
        click.echo(f"left out, which is newer: {found[-1].folder}: {', and '.join(concerns(found[-1]))}", err=True)
    return chosen
