"""The entry point: finds the command, and turns a SegdeployError into one line and an exit status."""

from __future__ import annotations

import importlib
import logging
import os
import sys

import click

from segdeploy import __version__
from segdeploy.base.errors import SegdeployError

# name -> (module, one line of help). The help stands here so that `segdeploy --help` imports no command.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("segdeploy.cli.demo", "The whole way on synthetic data, a report at the end."),
    "doctor": ("segdeploy.cli.doctor", "What this machine can run, and what to install for the rest."),
    "data": ("segdeploy.cli.data", "Make data sets, and check them."),
    "train": ("segdeploy.cli.train", "Train a model from an mmseg config."),
    "eval": ("segdeploy.cli.eval", "Per-class IoU and accuracy of a checkpoint or an artifact."),
    "predict": ("segdeploy.cli.predict", "Masks and overlays for images."),
    "export": ("segdeploy.cli.export", "Turn a checkpoint into a TorchScript, PT2, ONNX or TensorRT artifact."),
    "verify": ("segdeploy.cli.verify", "Hold artifacts against the checkpoint that they came from."),
    "bench": ("segdeploy.cli.bench", "Latency and mIoU of every backend, side by side."),
    "compare": ("segdeploy.cli.compare", "What changed between two evaluations, or two benchmark runs."),
    "pack": ("segdeploy.cli.pack", "Make what TorchServe, Ray or Triton serves from an artifact."),
    "serve": ("segdeploy.cli.serve", "Start TorchServe with an archive and safe settings."),
    "load": ("segdeploy.cli.load", "How a server answers under load: latency against rate, and the rate that keeps a p99."),
    "zoo": ("segdeploy.cli.zoo", "Which of mmseg's architectures export, proven one by one."),
    "inspect": ("segdeploy.cli.inspect", "Show what an artifact is and where it came from."),
    "publish": ("segdeploy.cli.publish", "A checkpoint to give away: the weights, without optimizer and training state."),
    "plot": ("segdeploy.cli.plot", "Loss, learning rate and mIoU curves of training runs."),
    "mmseg": ("segdeploy.cli.mmseg", "Run mmseg's own tools: converters, FLOPs, confusion matrix, browsing."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The commands in the order in which a user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one command; each module calls its command ``command``."""
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(COMMANDS[cmd_name][0]).command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="segdeploy")
def cli() -> None:
    """Take a semantic segmentation model from training to a proven deployment."""


def main() -> None:
    """Run the command line; exit 0 done, 1 error, 2 wrong usage, 3 a gate failed, 4 a gate could not decide."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted; start the same command again to go on", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SegdeployError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    if "TORCHELASTIC_RUN_ID" in os.environ:  # one of several processes of a training, started by torchrun's launcher
        _end_at_once()


def _end_at_once() -> None:
    """End without taking the interpreter down: all is written, but threads of a process group may still be ending.

    Now and then PyTorch then aborts the process ("terminate called without an active exception"), and a run that was done
    counts as one that failed.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
