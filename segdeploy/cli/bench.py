"""``segdeploy bench``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from segdeploy.artifact.manifest import BACKENDS
from segdeploy.cli.options import (
    checkpoint_option,
    config_option,
    device_option,
    json_option,
    max_pixels_option,
    one_of,
    print_table,
    threads_option,
    typed_command,
    write_json,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segdeploy.artifact.folder import Artifact, Unopened
    from segdeploy.bench.result import BenchReport


# Ways of the checkpoint that are rows where they are named; ``bench.variants`` has them.
_MORE = ("eager-channels_last", "eager-compile", "eager-tf32")
_CURVES = ("pixels", "batch", "classes", "images", "tiles")  # as ``bench.growth`` has them


@click.command("bench")
@click.argument("artifacts", nargs=-1, type=click.Path(path_type=Path))
@click.option("--suite", metavar="NAME", help="Export and measure the whole table of upernet-r18, upernet-r50 or upernet-r101.")
@click.option(
    "--work", type=click.Path(path_type=Path), help="--suite: its exports; by default suites/NAME. What is there is kept."
)
@click.option(
    "--growth", is_flag=True, help="How cost grows with pixels, batch, classes (of several ARTIFACTS), pictures, tiles."
)
@click.option("--curve", "curves", type=click.Choice(_CURVES), multiple=True, help="--growth: only this one; may be repeated.")
@click.option("--plot", type=click.Path(path_type=Path), help="--growth: draw it here (.svg, .png, .pdf).")
@click.option("--largest", default=4096, show_default=True, type=click.IntRange(min=128), help="--growth: the largest side.")
@click.option("--backend", "backends", multiple=True, metavar="NAME", help=f"Only {one_of((*BACKENDS, *_MORE))}.")
@click.option("--data", type=click.Path(path_type=Path), help="The data set; by default the one in the model's config.")
@click.option("--split", default="val", show_default=True)
@click.option("--limit", type=click.IntRange(min=1), help="mIoU on the first images only.")
@click.option("--shape", "sizes", metavar="HxW", multiple=True, help="Input sizes; by default what was exported for.")
@click.option(
    "--batch",
    "batches",
    multiple=True,
    type=click.IntRange(min=1),
    help="Images a batch; may be repeated. By default what was exported for.",
)
@click.option("--iterations", type=click.IntRange(min=1), help="Timed calls a backend; 100 by default, 20 of a suite.")
@click.option("--warmup", default=5, show_default=True, type=click.IntRange(min=0), help="Calls before them.")
@click.option("--min-time", default=1.0, show_default=True, help="Go on until each backend was timed for these seconds.")
@click.option(
    "--max-time", type=float, help="Start no further round of a shape after these seconds; 60 by default, 1800 of a suite."
)
@click.option("--peak", is_flag=True, help="Time large products and convolutions too: what share of that peak each reaches.")
@click.option("--html", "html_path", type=click.Path(path_type=Path), help="Write a page with plots and pictures.")
@checkpoint_option
@config_option
@device_option
@threads_option
@max_pixels_option
@json_option
def command(
    artifacts: tuple[Path, ...],
    suite: str | None,
    work: Path | None,
    growth: bool,
    curves: tuple[str, ...],
    plot: Path | None,
    largest: int,
    backends: tuple[str, ...],
    data: Path | None,
    split: str,
    limit: int | None,
    sizes: tuple[str, ...],
    batches: tuple[int, ...],
    iterations: int | None,
    warmup: int,
    min_time: float,
    max_time: float | None,
    peak: bool,
    html_path: Path | None,
    checkpoint: Path | None,
    config: str | None,
    device: str,
    threads: int | None,
    max_pixels: int | None,
    json_path: Path | None,
) -> None:
    """Latency, memory and mIoU of ARTIFACTS (all under exports/ by default) beside the checkpoint they came from.

    Each backend runs in a process of its own, and has a turn in every round. One that cannot run here is shown as not
    run, with the reason.
    """
    from segdeploy.artifact.folder import Artifact, Unopened
    from segdeploy.base.errors import InputError
    from segdeploy.bench.candidates import choose_candidates, find_data, missing_artifacts
    from segdeploy.bench.pictures import PictureCollector
    from segdeploy.bench.report import print_report
    from segdeploy.bench.result import BenchSettings
    from segdeploy.bench.run import bench
    from segdeploy.cli.defaults import named_artifacts
    from segdeploy.export.shapes import parse_size
    from segdeploy.images.decode import MAX_PIXELS

    if growth:
        _growth(named_artifacts(artifacts), device, threads, iterations or 5, largest, curves, plot, json_path)
        return
    settings = BenchSettings(
        shapes=tuple(parse_size(size, "--shape") for size in sizes),
        batch=batches or None,
        iterations=iterations or (20 if suite else 100),
        warmup=warmup,
        min_time_s=min_time,
        turn=2 if suite else 10,
        max_time_s=max_time or (1800 if suite else 60),
        threads=threads,
        device=device,  # type: ignore[arg-type]  # click.Choice holds it
        limit=limit,
        peak=peak or suite is not None,
        max_pixels=max_pixels or MAX_PIXELS,
    )
    if suite is not None:
        from segdeploy.suite.make import measured_suite

        if artifacts:
            raise InputError(expected="--suite or ARTIFACTS", got="both", fix="leave one of them out")
        say = partial(click.echo, err=True)
        settings, candidates = measured_suite(
            suite, settings, work=work, checkpoint=checkpoint, formats=backends, data=data, say=say
        )
        exported = [one for one in candidates if isinstance(one, Artifact)]
    else:
        named = named_artifacts(artifacts)
        exported = [one for one in named if isinstance(one, Artifact)]
        candidates = choose_candidates(exported, backends, checkpoint, config)
        candidates += missing_artifacts([one for one in named if isinstance(one, Unopened)], backends)
    labelled = find_data(exported, data, split)
    collector = PictureCollector(labelled.samples, settings.max_pixels)
    report = bench(
        candidates,
        settings,
        labelled.samples,
        data=labelled.name,
        no_data=labelled.missing,
        command=typed_command(),
        on_predictions=collector if html_path else None,
    )
    print_report(report)
    write_json(json_path, report)
    if html_path is not None:
        from segdeploy.base.files import write_file
        from segdeploy.bench.html import render_html

        write_file(html_path, render_html(report, pictures=collector.pictures(report)))
        click.echo(f"written: {html_path}", err=True)
    check_any_ran(report, backends)
    if html_path is None:
        click.echo("next: segdeploy bench --html bench.html for plots and pictures", err=True)


def _growth(
    named: Sequence[Artifact | Unopened],
    device: str,
    threads: int | None,
    calls: int,
    largest: int,
    curves: tuple[str, ...],
    plot: Path | None,
    json_path: Path | None,
) -> None:
    from segdeploy.artifact.folder import Unopened
    from segdeploy.bench.growth import measure_growth
    from segdeploy.bench.growth_text import draw_growth, growth_rows, growth_sentences

    for one in named:
        if isinstance(one, Unopened):
            raise one.error
    found = measure_growth(
        named,  # type: ignore[arg-type]  # none is unopened
        device=device,  # type: ignore[arg-type]  # click.Choice holds it
        threads=threads,
        calls=calls,
        largest=largest,
        names=curves or _CURVES,  # type: ignore[arg-type]  # likewise
        command=typed_command(),
    )
    for curve in found.curves:
        title = f"{curve.name}: {curve.model}, {found.threads} CPU threads"
        print_table(title, [curve.name, "median ms", "calls", "to the first", "RSS MB"], growth_rows(curve))
    for sentence in growth_sentences(found):
        click.echo(sentence)
    write_json(json_path, found)
    if plot is not None:
        draw_growth(found, plot)
        click.echo(f"written: {plot}", err=True)


def check_any_ran(report: BenchReport, backends: tuple[str, ...]) -> None:
    """End with an error where nothing that was asked for could be measured; the reference alone does not count."""
    from segdeploy.base.errors import BackendError
    from segdeploy.bench.stats import row_labels

    asked = [
        (row, label)
        for row, label in zip(report.rows, row_labels(report), strict=True)
        if row.backend != "eager" or row.label in backends
    ]
    if all(row.status == "not run" for row, _ in asked):
        raise BackendError(
            expected="a backend that can run here",
            got=f"none of {', '.join(dict.fromkeys(label for _, label in asked))}",
            fix="see the reasons above, or run: segdeploy doctor",
        )
