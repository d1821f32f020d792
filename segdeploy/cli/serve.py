"""``segdeploy serve``."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path

import click

from segdeploy.cli.options import max_pixels_option


@click.command("serve")
@click.argument("mar", type=click.Path(path_type=Path))
@click.option("--port", default=8080, show_default=True, type=click.IntRange(min=1, max=65535), help="For predictions.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Anything else wants a proxy that authenticates.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(min=1), help="Processes; they share the CPU.")
@click.option("--batch-size", default=1, show_default=True, type=click.IntRange(min=1), help="Requests run together.")
@click.option("--max-batch-delay", "delay_ms", default=10, show_default=True, help="With batches: ms that a request waits.")
@max_pixels_option
def command(mar: Path, port: int, host: str, workers: int, batch_size: int, delay_ms: int, max_pixels: int | None) -> None:
    """Serve MAR with TorchServe until Ctrl-C: on loopback, one model, none loaded or removed from outside."""
    from segdeploy.serve.server import Settings, follow, start

    # Killed, or its terminal closed, it must end as on Ctrl-C, or Java would live on. nohup's choice to ignore one stands.
    for kind in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(kind) is not signal.SIG_IGN:
            signal.signal(kind, signal.default_int_handler)
    settings = Settings(host=host, workers=workers, batch_size=batch_size, max_batch_delay_ms=delay_ms, max_pixels=max_pixels)
    click.echo(f"starting TorchServe with {mar} ...", err=True)
    with start(mar, port=port, settings=settings) as server:
        click.echo(f"ready: {server.url}")
        click.echo(f"  curl -s {server.url} -T IMAGE.jpg -o mask.png")
        with contextlib.suppress(KeyboardInterrupt):
            follow(server, sys.stderr)
    click.echo("stopped", err=True)
