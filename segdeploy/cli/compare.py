"""``segdeploy compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from segdeploy.cli.options import json_option, print_table, write_json

if TYPE_CHECKING:
    from segdeploy.bench.compare import BenchComparison
    from segdeploy.scores.compare import Comparison


@click.command("compare")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--max-drop", type=click.FloatRange(min=0), help="Exit 3 where mIoU falls by more points.")
@click.option("--max-class-drop", type=click.FloatRange(min=0), help="Exit 3 where the IoU of a class falls by more points.")
@click.option("--max-slowdown", type=click.FloatRange(min=0), help="Exit 3 where a median latency rises by more per cent.")
@json_option
def command(
    old: Path,
    new: Path,
    max_drop: float | None,
    max_class_drop: float | None,
    max_slowdown: float | None,
    json_path: Path | None,
) -> None:
    """What changed from OLD to NEW: two evaluations, or two benchmark runs.

    An evaluation is what `segdeploy eval --json` wrote, or a text that holds a table as mmseg logs it (of several, the
    last); a benchmark run is what `segdeploy bench --json` wrote. With a gate: exit 3 where it is not held, 4 where the
    two are not comparable.
    """
    from segdeploy.base.errors import InputError
    from segdeploy.bench import compare as benchmarks
    from segdeploy.bench.result import read_report
    from segdeploy.scores import compare as evaluations
    from segdeploy.scores.read import common_kind, read_scores

    kind = common_kind(old, new)
    misplaced = max_class_drop if kind == "benchmark" else max_slowdown
    if misplaced is not None:
        option = "--max-class-drop" if kind == "benchmark" else "--max-slowdown"
        raise InputError(expected=f"a gate for two {kind}s", got=option, fix="leave it out")
    if kind == "benchmark":
        runs = benchmarks.compare_reports(read_report(old), read_report(new))
        show_benchmarks(runs)
        write_json(json_path, runs)
        benchmarks.gate(runs, max_drop=max_drop, max_slowdown=max_slowdown)
    else:
        scores = evaluations.compare(read_scores(old), read_scores(new))
        show_evaluations(scores)
        write_json(json_path, scores)
        evaluations.gate(scores, max_drop=max_drop, max_class_drop=max_class_drop)


def show_evaluations(comparison: Comparison) -> None:
    """The classes, the largest gain of IoU first; the means; what follows from them."""
    from segdeploy.scores.compare_text import summary, table

    title = f"{comparison.old.source} -> {comparison.new.source}"
    columns, rows = table(comparison)
    print_table(title, columns, rows)
    for line in (*summary(comparison), *comparison.old.notes, *comparison.new.notes):
        click.echo(line)
    for caution in comparison.cautions:
        click.echo(f"caution: {caution}")


def show_benchmarks(comparison: BenchComparison) -> None:
    """Each backend and shape, and what may be said of the differences."""
    from segdeploy.bench.compare_text import summary, table

    columns, rows = table(comparison)
    styles = {"faster": "green", "slower": "bold red"}
    print_table("Median latency and mIoU", columns, rows, right=2, styles=styles)
    for line in summary(comparison):
        click.echo(line)
    for caution in comparison.cautions:
        click.echo(f"caution: {caution}")
