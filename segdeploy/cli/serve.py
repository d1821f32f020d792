"""``segdeploy serve``."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segdeploy.cli.options import address_option, max_pixels_option, refuse_others

if TYPE_CHECKING:
    from segdeploy.serve.server import Server


_OPTIONS = {
    "torchserve": ("metrics_port", "metrics_host", "workers", "model_api"),
    "ray": ("name", "replicas", "cpus", "gpus", "queue", "address", "unverified"),
}


@click.command("serve")
@click.argument("mar", metavar="MAR|ARTIFACT", type=click.Path(path_type=Path))
@click.option("--engine", default="torchserve", show_default=True, type=click.Choice(["torchserve", "ray"]))
@click.option("--port", default=8080, show_default=True, type=click.IntRange(min=1, max=65535), help="For predictions.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Anything else wants a proxy that encrypts.")
@click.option("--metrics-port", type=click.IntRange(min=0, max=65535), help="For Prometheus; by default two above --port.")
@click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Metrics are shown to whoever asks there.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; they share the CPU. As packed by default.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Requests run together. As packed by default.")
@click.option(
    "--max-batch-delay",
    "delay_ms",
    type=click.IntRange(min=0),
    help="With batches: ms that a request waits. As packed by default.",
)
@click.option("--name", help="With ray: of the model, as it stands in the URL; by default the artifact's name.")
@click.option(
    "--replicas", default="1", show_default=True, metavar="N|MIN:MAX", help="With ray: processes; MIN:MAX by the load."
)
@click.option("--cpus", type=click.IntRange(min=1), help="With ray: of a replica; by default they share this machine's.")
@click.option("--gpus", default=0, show_default=True, type=click.IntRange(0, 1), help="With ray: of a replica.")
@click.option(
    "--queue",
    default=100,
    show_default=True,
    type=click.IntRange(min=1),
    help="With ray: that wait; more are told 503.",
)
@address_option
@click.option("--unverified", is_flag=True, help="With ray: serve it in spite of its parity verdict.")
@max_pixels_option
@click.option("--token-file", type=click.Path(path_type=Path), help="Where the token is written, for you alone to read.")
@click.option("--no-token", is_flag=True, help="Answer whoever reaches the port.")
@click.option("--page", is_flag=True, help="A page for people too, on loopback: drop a picture, see its classes.")
@click.option("--page-port", default=0, type=click.IntRange(min=0, max=65535), help="For the page; a free one by default.")
@click.option("--model-api", is_flag=True, help="Let models be registered and removed while it runs, through its socket.")
def command(
    mar: Path,
    engine: str,
    port: int,
    host: str,
    metrics_port: int | None,
    metrics_host: str,
    workers: int | None,
    batch_size: int | None,
    delay_ms: int | None,
    name: str | None,
    replicas: str,
    cpus: int | None,
    gpus: int,
    queue: int,
    address: str | None,
    unverified: bool,
    max_pixels: int | None,
    token_file: Path | None,
    no_token: bool,
    page: bool,
    page_port: int,
    model_api: bool,
) -> None:
    """Serve MAR with TorchServe until Ctrl-C: on loopback, with a token, one model, none loaded or removed from outside.

    With --engine ray an ARTIFACT is served by Ray Serve, on this machine alone or on a running cluster.

    Ended by Ctrl-C or SIGTERM it takes no more requests, and finishes those that it has.
    """
    from segdeploy.cli.serve_page import page_beside
    from segdeploy.serve.server import Settings, follow, start

    refuse_others(click.get_current_context(), engine, _OPTIONS)
    # Killed, or its terminal closed, it must end as on Ctrl-C: finish, and stop. nohup's choice to ignore one stands.
    for kind in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(kind) is not signal.SIG_IGN:
            signal.signal(kind, signal.default_int_handler)
    if engine == "ray":
        from segdeploy.cli.serve_ray import serve_ray

        told: dict[str, Any] = {"batch_size": batch_size, "batch_delay_ms": delay_ms, "max_pixels": max_pixels}
        told = {key: value for key, value in told.items() if value is not None}
        told |= {"cpus": cpus, "gpus": gpus, "max_queued": queue, "name": name}
        where = {"host": host, "port": port, "address": address, "token_file": token_file}
        serve_ray(mar, replicas, told, where, no_token=no_token, unverified=unverified, page_port=page_port if page else None)
        return
    settings = Settings(
        host=host,
        metrics_host=metrics_host,
        workers=workers,
        batch_size=batch_size,
        max_batch_delay_ms=delay_ms,
        max_pixels=max_pixels,
        tokens=not no_token,
        token_file=token_file,
        model_api=model_api,
    )
    click.echo(f"starting TorchServe with {mar} ...", err=True)
    shown = port + 2 if metrics_port is None else metrics_port
    with start(mar, port=port, metrics_port=shown, settings=settings) as server:
        _show(server, model_api=model_api)
        with page_beside(server.url, server.headers, page_port if page else None), contextlib.suppress(KeyboardInterrupt):
            follow(server, sys.stderr)
        click.echo("finishing what is being answered ...", err=True)
    click.echo("stopped", err=True)


def _show(server: Server, *, model_api: bool) -> None:
    """The lines to paste. Tokens stay in their file: a log and ``ps`` are for others to read."""
    header = f"-H @{server.header_file} " if server.header_file else ""
    click.echo(f"ready: {server.url}")
    click.echo(f"  curl -s {header}{server.url} -T IMAGE.jpg -o mask.png")
    if server.header_file:
        variable = f"SEGDEPLOY_TOKEN=$(cut -d' ' -f3 {server.header_file})"
        click.echo(f"  {variable} segdeploy predict --url {server.url} IMAGE.jpg --out masks")
    click.echo(f"metrics, for Prometheus: {server.metrics_url}")
    if model_api:
        click.echo(f"models, for whoever may open it: {server.management.path}")
        click.echo(f"  the token's name in {server.management.key_file}: management; how to: docs/serving.md")
