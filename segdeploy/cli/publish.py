"""``segdeploy publish``."""

from __future__ import annotations

from pathlib import Path

import click

from segdeploy.cli.options import checked_name, config_option


@click.command("publish")
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default="published", show_default=True, help="Folder to write into.")
@click.option("--name", help="Before the hash in the file's name; by default that of the run or the file.")
@click.option(
    "--ema/--no-ema",
    default=None,
    help="Of a training with EMAHook: the averaged weights, which it validates and which are the default, or the last step's.",
)
@config_option
def command(checkpoint: Path | None, out: Path, name: str | None, ema: bool | None, config: str | None) -> None:
    """Write the weights of CHECKPOINT to give away: with config and classes, without optimizer and training state.

    The file is called NAME-xxxxxxxx.pth after the first 8 hex digits of its SHA-256, and is the same for the same checkpoint.
    Without CHECKPOINT: the newest one under work_dirs/.
    """
    from segdeploy.cli.defaults import newest_checkpoint
    from segdeploy.training.publish import publish

    source = checkpoint or newest_checkpoint()
    result = publish(source, out, name=checked_name(name), config=config, ema=ema)
    before, after = result.bytes_before / 1e6, result.bytes_after / 1e6
    click.echo(f"{result.path}  {after:.1f} MB, before {before:.1f} MB")
    if result.dropped:
        click.echo(f"left out: {', '.join(result.dropped)}")
    if result.averaged is not None:
        other = "--no-ema for the last step's" if result.averaged else "--ema for the averaged ones"
        click.echo(f"weights: {'averaged (EMA)' if result.averaged else 'of the last step, not averaged'}; {other}")
    click.echo(f"next: segdeploy export {result.path} --to onnx", err=True)
