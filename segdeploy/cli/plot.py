"""``segdeploy plot``."""

from __future__ import annotations

from pathlib import Path

import click

from segdeploy.cli.options import json_option


@click.command("plot")
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path), metavar="[RUN]...")
@click.option("--keys", metavar="A,B,...", help="Scalars to draw, such as loss,lr,mIoU,decode.acc_seg.")
@click.option("--out", type=click.Path(path_type=Path), default="curves.png", show_default=True, help=".png, .svg or .pdf.")
@json_option
def command(runs: tuple[Path, ...], keys: str | None, out: Path, json_path: Path | None) -> None:
    """Draw loss, learning rate and mIoU of one or several training runs over each other.

    RUN is a work dir; by default the one under work_dirs/ that was logged to last. The logs of a resumed training are joined.

    \b
    Example: segdeploy plot work_dirs/upernet_r18 work_dirs/upernet_r50 --out curves.svg
    """  # noqa: D301  the backslash is click's: it keeps the line as it is
    from rich.markup import escape

    from segdeploy.cli.options import print_table, write_json
    from segdeploy.training.curve_plots import draw_curves
    from segdeploy.training.curves import choose_keys, newest_run, read_runs, summarise

    found = read_runs(runs or (newest_run(),))
    asked = tuple(key.strip() for key in keys.split(",") if key.strip()) if keys else ()
    chosen, notes = choose_keys(found, asked)
    draw_curves(found, chosen, out)
    for note in notes:
        click.echo(note, err=True)
    summaries = [summarise(run) for run in found]

    def cell(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    rows = []
    for one in summaries:
        figures = (one.iterations, 0), (one.epochs, 0), (one.last_loss, 4), (one.best_miou, 2), (one.best_at, 0)
        rows.append([escape(one.name), *(cell(*figure) for figure in figures)])
    print_table("training runs", ["run", "iterations", "epochs", "last loss", "best mIoU", "at epoch / iteration"], rows)
    write_json(json_path, summaries)
    click.echo(f"written: {out}", err=True)
