"""``segdeploy zoo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from segdeploy.cli.options import print_table

if TYPE_CHECKING:
    from segdeploy.zoo.result import Entry


@click.command("zoo")
@click.argument("names", nargs=-1, metavar="[FAMILY|CONFIG ...]")
@click.option("--to", "formats", default="onnx,torchscript", show_default=True, help="Formats, with commas.")
@click.option("--out", type=click.Path(path_type=Path), default="zoo.json", show_default=True, help="The report; continued.")
@click.option("--markdown", "markdown_path", type=click.Path(path_type=Path), help="Write the table here.")
@click.option("--timeout", default=600.0, show_default=True, type=click.FloatRange(min=1), help="Seconds for one config.")
@click.option("--memory", default=8192, show_default=True, type=click.IntRange(min=256), help="MiB for one config.")
def command(names: tuple[str, ...], formats: str, out: Path, markdown_path: Path | None, timeout: float, memory: int) -> None:
    """Export one untrained config of every family that mmseg ships, or those named, and hold each against mmseg.

    Each runs in a process of its own, within --timeout and --memory. Results are written as they come: interrupted, the
    same command goes on. Those named are run again.
    """
    from segdeploy.base.files import write_file
    from segdeploy.cli.options import typed_command
    from segdeploy.export.exporter import check_export
    from segdeploy.export.options import Options
    from segdeploy.zoo.process import Limits
    from segdeploy.zoo.run import choose_configs, run_zoo
    from segdeploy.zoo.table import cells, columns, markdown, summary

    chosen = tuple(dict.fromkeys(name.strip() for name in formats.split(",") if name.strip()))
    for name in chosen:
        check_export(name, Options())  # an unknown name or a missing package is said before any work
    configs = choose_configs(names)
    report = run_zoo(configs, chosen, out, Limits(timeout, memory << 20), again=bool(names), command=typed_command(), seen=_say)
    print_table("Architectures", columns(report), [cells(report, entry) for entry in report.entries], right=2)
    for sentence in summary(report):
        click.echo(sentence)
    click.echo(f"written: {out}", err=True)
    if markdown_path is not None:
        write_file(markdown_path, markdown(report))
        click.echo(f"written: {markdown_path}", err=True)


def _say(entry: Entry) -> None:
    results = ", ".join(f"{result.format} {result.status}" for result in entry.formats) or f"{entry.outcome}: {entry.reason}"
    click.echo(f"{entry.family}: {results}  ({entry.seconds:.0f} s, {entry.peak_rss_bytes >> 20} MiB)", err=True)
