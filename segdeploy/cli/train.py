"""``segdeploy train``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("train")
@click.argument("config")
@click.argument("more_options", nargs=-1, metavar="")
@click.option("--work-dir", type=click.Path(path_type=Path), help="For logs and checkpoints; work_dirs/CONFIG by default.")
@click.option("--data-root", type=click.Path(path_type=Path), help="The data set, in place of the config's.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the work dir.")
@click.option("--amp", is_flag=True, help="Mixed precision.")
@click.option("--seed", type=click.IntRange(min=0), help="In place of the config's.")
@click.option("--cfg-options", "options", multiple=True, metavar="K=V ...", help="Changes to the config: a.b=value.")
def command(
    config: str,
    more_options: tuple[str, ...],
    work_dir: Path | None,
    data_root: Path | None,
    resume: bool,
    amp: bool,
    seed: int | None,
    options: tuple[str, ...],
) -> None:
    """Train the model of CONFIG: a path, a name from configs/training, or mmseg::family/name.py. It is executed.

    \b
    Example: segdeploy train upernet_r18_synthetic --data-root data/synthetic
    """  # noqa: D301  the backslash is click's: it keeps the line as it is
    from segdeploy.core.targets import WORK_DIRS
    from segdeploy.training.train import train

    changes = dict(_key_and_value(text) for text in (*options, *more_options))
    try:
        result = train(config, work_dir=work_dir, data_root=data_root, resume=resume, amp=amp, seed=seed, options=changes)
    except KeyboardInterrupt:
        click.echo("what was saved is kept: add --resume to go on from the last checkpoint", err=True)
        raise
    click.echo(f"checkpoint: {result.checkpoint}")
    click.echo("val mIoU: not measured" if result.miou is None else f"val mIoU: {result.miou:.2f} %")
    # What `export` takes by itself is the newest checkpoint under work_dirs/: one elsewhere has to be named.
    found_alone = WORK_DIRS.resolve() in result.checkpoint.resolve().parents
    click.echo(f"next: segdeploy export {'' if found_alone else f'{result.checkpoint} '}--to onnx", err=True)


def _key_and_value(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise click.UsageError(f"'{text}' is no key=value for --cfg-options")
    return key, value
