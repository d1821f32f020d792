"""``segdeploy train``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click


@click.command("train")
@click.argument("config")
@click.argument("more_options", nargs=-1, metavar="")
@click.option("--work-dir", type=click.Path(path_type=Path), help="For logs and checkpoints; work_dirs/CONFIG by default.")
@click.option("--data-root", type=click.Path(path_type=Path), help="The data set, in place of the config's.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the work dir, with the run's own config.")
@click.option("--resume-changed", is_flag=True, help="With --resume: with other processes or another --batch than the run's.")
@click.option("--load-from", metavar="CKPT", help="Start from these weights; what does not fit is listed.")
@click.option("--epochs", type=click.IntRange(min=1), help="How long; the learning rate's decay follows.")
@click.option("--iterations", type=click.IntRange(min=1), help="How long, in iterations, whatever the config counts.")
@click.option("--amp", is_flag=True, help="Mixed precision (CUDA).")
@click.option("--channels-last", is_flag=True, help="NHWC memory order; on GPUs mostly with --amp.")
@click.option("--compile", is_flag=True, help="torch.compile for the training steps.")
@click.option("--auto-scale-lr", is_flag=True, help="Learning rate in proportion to the images a step.")
@click.option("--batch", type=click.IntRange(min=1), help="Images a step over all processes; the recipe's by default.")
@click.option("--accumulate", default=1, type=click.IntRange(min=1), help="Forward passes a step, where memory asks.")
@click.option("--seed", type=click.IntRange(min=0), help="In place of the config's.")
@click.option("--gpus", type=click.IntRange(min=1), help="Processes on this machine, one a GPU.")
@click.option("--processes", type=click.IntRange(min=1), help="Processes on this machine, without GPUs.")
@click.option("--nodes", default=1, type=click.IntRange(min=1), help="Machines; start the same command on each.")
@click.option("--node-rank", default=0, type=click.IntRange(min=0), help="This machine's number, from 0.")
@click.option("--master", metavar="HOST:PORT", help="Where machine 0 listens, with --nodes.")
@click.option("--cfg-options", "options", multiple=True, metavar="K=V ...", help="Changes to the config: a.b=value.")
def command(
    config: str,
    more_options: tuple[str, ...],
    work_dir: Path | None,
    data_root: Path | None,
    resume: bool,
    resume_changed: bool,
    load_from: str | None,
    epochs: int | None,
    iterations: int | None,
    amp: bool,
    channels_last: bool,
    compile: bool,  # noqa: A002  the option's name
    auto_scale_lr: bool,
    batch: int | None,
    accumulate: int,
    seed: int | None,
    gpus: int | None,
    processes: int | None,
    nodes: int,
    node_rank: int,
    master: str | None,
    options: tuple[str, ...],
) -> None:
    """Train the model of CONFIG: a path, a name from configs/training, or mmseg::family/name.py. It is executed.

    \b
    Examples: segdeploy train upernet_r18_synthetic --data-root data/synthetic
              segdeploy train upernet_r50_voc12aug_512x512_200e --gpus 4 --amp
    Started by torchrun or srun, it is one process of those.
    """  # noqa: D301  the backslash is click's: it keeps the lines as they are
    from segdeploy.models.checkpoint import WORK_DIRS
    from segdeploy.training.configure import Settings, configure
    from segdeploy.training.distributed import place_from
    from segdeploy.training.train import train

    if epochs is not None and iterations is not None:
        raise click.UsageError("--epochs and --iterations exclude each other")
    if gpus is not None and processes is not None:
        raise click.UsageError("--gpus and --processes exclude each other")
    settings = Settings(
        work_dir=work_dir,
        data_root=data_root,
        resume=resume or resume_changed,
        resume_changed=resume_changed,
        load_from=load_from,
        epochs=epochs,
        iterations=iterations,
        amp=amp,
        channels_last=channels_last,
        compile=compile,
        auto_scale_lr=auto_scale_lr,
        batch=batch,
        accumulate=accumulate,
        seed=seed,
        options=dict(_key_and_value(text) for text in (*options, *more_options)),
    )
    place = place_from(os.environ)
    if place is None and (nodes > 1 or (gpus or processes or 1) > 1):
        _check_machines(gpus, nodes, node_rank, master)
        configure(config, settings, world=nodes * (gpus or processes or 1))  # what is wrong is said once, not by every process
        _launch_all(gpus or processes or 1, nodes, node_rank, master)
        return
    try:
        result = train(config, settings)
    except KeyboardInterrupt:
        # Not by click's way, whose advice is to start the same command again: that would begin anew.
        click.echo("interrupted; what was saved is kept: add --resume to go on from the last checkpoint", err=True)
        sys.exit(130)
    except Exception as error:
        signum = getattr(error, "signum", None)  # of a StoppedError, whose module imports MMEngine
        if signum is None:
            raise
        click.echo(f"{error}; saved: add --resume to go on from there", err=True)
        sys.exit(128 + signum)
    if place is not None and place.rank > 0:
        return
    click.echo(f"checkpoint: {result.checkpoint}")
    click.echo("val mIoU: not measured" if result.miou is None else f"val mIoU: {result.miou:.2f} %")
    # What `export` takes by itself is the newest checkpoint under work_dirs/: one elsewhere has to be named.
    found_alone = WORK_DIRS.resolve() in result.checkpoint.resolve().parents
    click.echo(f"next: segdeploy export {'' if found_alone else f'{result.checkpoint} '}--to onnx", err=True)


def _check_machines(gpus: int | None, nodes: int, node_rank: int, master: str | None) -> None:
    from segdeploy.base.errors import InputError

    if nodes > 1 and (master is None or ":" not in master):
        raise InputError(
            expected="--master HOST:PORT with --nodes", got=repr(master), fix="pass where machine 0 listens, the same on all"
        )
    if node_rank >= nodes:
        raise InputError(expected=f"--node-rank 0..{nodes - 1}", got=str(node_rank), fix="number the machines from 0")
    if gpus is not None:
        import torch

        if torch.cuda.device_count() < gpus:
            raise InputError(
                expected=f"{gpus} GPUs", got=str(torch.cuda.device_count()), fix="pass fewer, or --processes N for CPUs"
            )


def _launch_all(processes: int, nodes: int, node_rank: int, master: str | None) -> None:
    from segdeploy.training.distributed import launch

    # The same command line again: a process that finds its place in the environment does not launch others.
    code = launch(sys.argv[1:], processes=processes, nodes=nodes, node_rank=node_rank, master=master or "127.0.0.1:0")
    if code:
        sys.exit(code)


def _key_and_value(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise click.UsageError(f"'{text}' is no key=value for --cfg-options")
    return key, value
