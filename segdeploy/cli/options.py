"""Options and small parts that several commands share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from segdeploy.artifact.folder import Artifact
    from segdeploy.images.dataset import Sample

device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to run. cuda where there is none is an error, never a silent CPU run.",
)
threads_option = click.option("--threads", type=click.IntRange(min=1), help="CPU threads; all usable by default.")
config_option = click.option("--config", help="The mmseg config, where the checkpoint carries none. It is executed.")
checkpoint_option = click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="The original; by default the one that the artifact remembers.",
)
max_pixels_option = click.option(
    "--max-pixels", type=click.IntRange(min=1), help="Of a picture; larger ones are not decoded. 64,000,000 by default."
)
engine_option = click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="ray spreads the files with Ray Data, and goes on where a run before it ended.",
)
address_option = click.option(
    "--address", metavar="HOST:PORT", help="With ray: of a running cluster; by default one starts here."
)
json_option = click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures here too.")


def refuse_others(context: click.Context, chosen: str, names: Mapping[str, Collection[str]]) -> None:
    """Refuse options that were typed and that belong to another engine than the one that was chosen.

    Args:
        context: of the command that runs.
        chosen: the engine.
        names: engine -> names of the options that it alone takes.

    Raises:
        click.UsageError: naming the first of them.
    """
    for engine, theirs in names.items():
        for parameter in context.command.params:
            typed = context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
            if engine != chosen and parameter.name in theirs and typed:
                raise click.UsageError(f"{parameter.opts[0]} is for --engine {engine}, not {chosen}")


def one_of(names: Sequence[str]) -> str:
    """For a help text: ``a, b or c``."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


def checked_name(name: str | None) -> str | None:
    """A --name that is a file's name on every system, or None.

    Raises:
        InputError: it is not.
    """
    import re

    from segdeploy.base.errors import InputError

    if name is not None and not re.fullmatch(r"[\w][\w.-]*", name):
        raise InputError(expected="a --name of letters, digits, '.', '_' and '-'", got=f"'{name}'", fix="choose another")
    return name


def resolve_target(target: Path | None, config: str | None = None) -> Artifact:
    """A TARGET argument: a checkpoint, an artifact's folder, or nothing for the newest checkpoint."""
    from segdeploy.artifact.folder import open_artifact
    from segdeploy.cli.defaults import newest_checkpoint
    from segdeploy.runtime.open import eager_artifact

    path = target or newest_checkpoint()
    artifact = open_artifact(path) if path.is_dir() else eager_artifact(path, config, say=partial(click.echo, err=True))
    warn_of_random_weights(artifact)
    return artifact


def warn_of_random_weights(artifact: Artifact) -> None:
    """Say on stderr that nobody trained a model, where that is so."""
    if artifact.manifest.lineage.random_weights:
        text = f"warning: {artifact.name} has RANDOM WEIGHTS: its latency is the model's, its labels mean nothing"
        click.echo(text, err=True)


def resolve_samples(artifact: Artifact, data: Path | None, split: str) -> tuple[Path, list[Sample]]:
    """The labelled images of --data, or of the data set that the model was validated on, and its folder."""
    from segdeploy.images.dataset import find_samples

    samples = find_samples(data, split, artifact.manifest)
    return data or Path(artifact.manifest.lineage.data_root or ""), samples


def typed_command() -> str:
    """The command line as it was typed, ready to be pasted."""
    import shlex
    import sys

    return shlex.join(["segdeploy", *sys.argv[1:]])


def repeatable_command(context: click.Context, arguments: Mapping[str, str], leave_out: Collection[str]) -> str:
    """The command that does the same again, ready to be pasted: its arguments, and the options that were typed, as typed.

    Args:
        context: of the command that runs.
        arguments: name of an argument, or of an option that stands for one of its values alone -> what it stands for.
        leave_out: names of options that make no difference to the result.
    """
    import shlex

    words = ["segdeploy", str(context.info_name)]
    for parameter in context.command.params:
        name = str(parameter.name)
        if name in arguments:
            words += [*parameter.opts[:1], arguments[name]] if isinstance(parameter, click.Option) else [arguments[name]]
        elif name not in leave_out and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            words += _typed(parameter, context.params[name])
    return shlex.join(words)


def _typed(parameter: click.Parameter, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [(parameter.opts if value else parameter.secondary_opts)[0]]
    return [word for one in (value if parameter.multiple else [value]) for word in (parameter.opts[0], str(one))]


def write_json(path: Path | None, value: Any) -> None:
    """Write a struct as indented JSON, where a path was asked for."""
    if path is None:
        return
    import msgspec

    from segdeploy.base.files import write_file

    write_file(path, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    click.echo(f"written: {path}", err=True)


def print_table(
    title: str, columns: list[str], rows: list[list[str]], *, right: int = 1, styles: Mapping[str, str] | None = None
) -> None:
    """A table on stdout.

    Args:
        title: above it.
        columns: their heads.
        rows: cells as they are: no text in them is read as markup.
        right: columns from this one on are numbers and stand to the right.
        styles: how to show a cell that holds just this text, such as ``{"passed": "green"}``.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for index, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if index >= right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=(styles or {}).get(cell, "")) for cell in row))
    # Where the output is a file or a pipe there is no terminal to ask for its width: wide enough not to fold figures.
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=140)
    console.print(Text(title, style="italic"), soft_wrap=True)  # a table's own title would be folded to the table's width
    console.print(table)
