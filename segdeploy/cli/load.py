"""``segdeploy load``."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segdeploy.cli.options import device_option, json_option, print_table, threads_option, typed_command, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from segdeploy.bench.load.result import LoadReport, Pictures
    from segdeploy.bench.load.target import Reply

_REQUESTS = 400  # a 99th percentile needs 368 independent values


@click.command("load")
@click.argument("url", required=False)
@click.option(
    "--artifact", type=click.Path(path_type=Path), help="In the place of a URL: in this process, by the server's predictor."
)
@click.option("--rate", "--rates", "rates", metavar="N[,N...]", help="Open loop: requests a second, at random times (Poisson).")
@click.option("--clients", metavar="N[,N...]", help="Closed loop: each client asks when it has its answer.")
@click.option(
    "--target-p99", type=click.FloatRange(min=0, min_open=True), metavar="MS", help="Search the highest rate that keeps it."
)
@click.option(
    "--highest",
    default=10_000.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Rate that the search tries.",
)
@click.option("--requests", type=click.IntRange(min=1), help=f"Of each load; {_REQUESTS} by default.")
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), help="Of each load; with --requests whichever ends first."
)
@click.option("--images", type=click.Path(path_type=Path), help="A folder of encoded pictures.")
@click.option("--data", type=click.Path(path_type=Path), help="A data set's pictures.")
@click.option("--split", default="val", show_default=True, help="Of --data.")
@click.option("--size", default="360x480", show_default=True, metavar="HxW", help="Of made pictures, where none are given.")
@click.option(
    "--header", "headers", multiple=True, metavar="'NAME: VALUE'|@FILE", help="To send along; @FILE as curl reads it."
)
@click.option("--answer", type=click.Choice(["image", "json"]), default="image", show_default=True, help="What is asked for.")
@click.option("--timeout", default=30.0, show_default=True, type=click.FloatRange(min=0, min_open=True), help="Seconds.")
@click.option("--connections", default=128, show_default=True, type=click.IntRange(min=1), help="At once, at most.")
@click.option("--warmup", default=5, show_default=True, type=click.IntRange(min=0), help="Requests before each load.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of arrivals and pictures.")
@click.option("--mlperf", type=click.Choice(["SingleStream", "Offline"]), help="With --artifact: by MLPerf's LoadGen.")
@click.option("--out", type=click.Path(path_type=Path), help="--mlperf: a folder for LoadGen's logs.")
@click.option("--batch", type=click.IntRange(min=1), help="--mlperf Offline: pictures at once; 8 by default.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw latency against rate here (.svg, .png, .pdf).")
@click.option("--markdown", "markdown_path", type=click.Path(path_type=Path), help="Write it for a pull request.")
@device_option
@threads_option
@json_option
def command(
    url: str | None,
    artifact: Path | None,
    rates: str | None,
    clients: str | None,
    target_p99: float | None,
    highest: float,
    requests: int | None,
    seconds: float | None,
    images: Path | None,
    data: Path | None,
    split: str,
    size: str,
    headers: tuple[str, ...],
    answer: str,
    timeout: float,
    connections: int,
    warmup: int,
    seed: int,
    mlperf: str | None,
    out: Path | None,
    batch: int | None,
    plot: Path | None,
    markdown_path: Path | None,
    device: str,
    threads: int | None,
    json_path: Path | None,
) -> None:
    """How the server at URL answers under load, or an artifact in this process.

    Latencies count from when a request was due, so that a stalled server delays none of the clock. Without --rate,
    --clients and --target-p99: one client, then four. A token is taken from SEGDEPLOY_TOKEN.
    """
    from segdeploy.bench.load.drive import Plan
    from segdeploy.bench.load.http import Http
    from segdeploy.bench.load.plot import check_plot
    from segdeploy.bench.load.run import Wanted, run_load
    from segdeploy.bench.load.target import InProcess

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was measured until then is shown and written
    _refuse_misfits(click.get_current_context().params)
    chosen = Wanted(
        rates=_numbers(rates, "--rate"),
        clients=tuple(int(one) for one in _numbers(clients, "--clients", whole=True)),
        target_p99_ms=target_p99,
        highest=highest,
    )
    if not (chosen.rates or chosen.clients or target_p99):
        chosen = Wanted(clients=(1, 4))
    if plot is not None:
        check_plot(plot)
    plan = Plan(
        requests=requests or (None if seconds else _REQUESTS),
        seconds=seconds,
        timeout_s=timeout,
        wanted=answer,  # type: ignore[arg-type]  # click.Choice holds it
        seed=seed,
        warmup=warmup,
    )
    if url is not None:
        target = Http(url, _headers(headers, answer), connections=connections)
        files, pictures = _pictures(images, data, split, size, seed)
        report = run_load(target, url, files, pictures, wanted=chosen, plan=plan, command=typed_command())
    else:
        assert artifact is not None
        files, pictures = _pictures(images, data, split, size, seed)
        with _predictor(artifact, device, threads, answer) as (name, ask):
            if mlperf is not None:
                assert out is not None
                _mlperf(mlperf, ask, files, out, seconds or 10.0, requests or 100, batch or 8, json_path)
                return
            alone = InProcess(lambda picture: ask([picture])[0])
            report = run_load(alone, name, files, pictures, wanted=chosen, plan=plan, command=typed_command())
    _show(report, json_path, markdown_path, plot)


def _refuse_misfits(typed: Mapping[str, Any]) -> None:
    """Options that contradict each other.

    Raises:
        click.UsageError: naming them.
    """
    mlperf, artifact = typed["mlperf"], typed["artifact"]
    own = ("rates", "clients", "target_p99", "plot", "markdown_path")
    rules = (
        ((typed["url"] is None) == (artifact is None), "name a URL, or an --artifact: one of the two"),
        ((mlperf is None) != (typed["out"] is None), "--mlperf and --out go together"),
        (mlperf and artifact is None, "--mlperf is for an --artifact"),
        (typed["batch"] and mlperf != "Offline", "--batch is for --mlperf Offline"),
        (
            mlperf and any(typed[name] for name in own),
            "--mlperf has its own loads: leave rates, clients, plot and Markdown out",
        ),
        (artifact is not None and typed["headers"], "--header is for a URL"),
        (typed["images"] is not None and typed["data"] is not None, "--images or --data, not both"),
    )
    for broken, text in rules:
        if broken:
            raise click.UsageError(text)


def _show(report: LoadReport, json_path: Path | None, markdown_path: Path | None, plot: Path | None) -> None:
    from segdeploy.base.files import write_file
    from segdeploy.bench.load.plot import draw_load
    from segdeploy.bench.load.text import HEAD, markdown, rows_of, sentences

    print_table(f"{report.target}: {report.pictures.count} pictures, {report.pictures.source}", list(HEAD), rows_of(report))
    for text in sentences(report):
        click.echo(text)
    write_json(json_path, report)
    if markdown_path is not None:
        write_file(markdown_path, markdown(report))
        click.echo(f"written: {markdown_path}", err=True)
    if plot is not None:
        draw_load(report, plot)
        click.echo(f"written: {plot}", err=True)
    if report.interrupted:
        raise click.Abort


def _numbers(text: str | None, option: str, *, whole: bool = False) -> tuple[float, ...]:
    kind = "whole numbers" if whole else "numbers"
    try:
        found = tuple(float(int(one) if whole else float(one)) for one in text.split(",")) if text is not None else ()
    except ValueError:
        found = (0.0,)
    if not all(0 < one < 1e6 for one in found):
        raise click.UsageError(f"{option} takes {kind} above 0, with commas between; not '{text}'")
    return found


def _headers(given: Sequence[str], answer: str) -> dict[str, str]:
    """What is sent with every request: a token is kept out of what is typed, which others can read."""
    from segdeploy.base.errors import InputError
    from segdeploy.serve.client import TOKEN_VARIABLE

    found = {"Accept": "application/json" if answer == "json" else "*/*"}
    if token := os.environ.get(TOKEN_VARIABLE):
        found["Authorization"] = f"Bearer {token}"
    for one in given:
        try:
            lines = Path(one[1:]).read_text().splitlines() if one.startswith("@") else [one]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(expected=f"a file of headers at '{one[1:]}'", got=str(error), fix="check --header") from error
        for line in filter(None, lines):
            name, colon, value = line.partition(":")
            if not colon or not name.strip():
                got = f"'{one}'" if not one.startswith("@") else f"another line in '{one[1:]}'"
                raise InputError(expected="--header 'NAME: VALUE'", got=got, fix="put a colon between the two")
            found[name.strip()] = value.strip()
    return found


def _pictures(images: Path | None, data: Path | None, split: str, size: str, seed: int) -> tuple[list[bytes], Pictures]:
    from segdeploy.bench.load.pictures import made_pictures, pictures_in, pictures_of
    from segdeploy.export.shapes import parse_size
    from segdeploy.images.dataset import find_samples

    if images is not None:
        return pictures_in(images, seed)
    if data is not None:
        return pictures_of([one.image for one in find_samples(data, split)], f"{data}, {split}", seed)
    return made_pictures(*parse_size(size, "--size"), seed)


@contextmanager
def _predictor(
    folder: Path, device: str, threads: int | None, answer: str
) -> Iterator[tuple[str, Callable[[Sequence[bytes]], list[Reply]]]]:
    """The predictor that every server has, as a function of encoded pictures."""
    from segdeploy.artifact.folder import open_artifact
    from segdeploy.bench.load.target import Reply
    from segdeploy.runtime import open_session
    from segdeploy.serve.predictor import Predictor
    from segdeploy.serve.request import Request

    accept = "application/json" if answer == "json" else ""
    with open_session(open_artifact(folder), device, threads) as session:  # type: ignore[arg-type]  # click.Choice holds it
        predictor = Predictor(session)
        predictor.warm_up()

        def ask(pictures: Sequence[bytes]) -> list[Reply]:
            answers = predictor.answer([Request(picture, accept=accept) for picture in pictures])
            return [Reply(one.status, one.content_type, one.body) for one in answers]

        yield f"{folder} in-process on {session.device}", ask


def _mlperf(
    scenario: str,
    ask: Callable[[Sequence[bytes]], list[Reply]],
    files: Sequence[bytes],
    out: Path,
    seconds: float,
    requests: int,
    batch: int,
    json_path: Path | None,
) -> None:
    from segdeploy.base.errors import ServeError
    from segdeploy.bench.load.mlperf import run_mlperf

    found = run_mlperf(scenario, ask, files, out, seconds=seconds, requests=requests, batch=batch)  # type: ignore[arg-type]
    print_table(f"MLPerf LoadGen, {scenario}", ["", ""], [[name, value] for name, value in found.figures.items()])
    click.echo(f"LoadGen's own logs: {out}", err=True)
    write_json(json_path, found)
    if found.failed:
        got = ", ".join(f"{count} {kind}" for kind, count in found.failed.items())
        raise ServeError(expected="an image for every picture", got=got, fix="try them with: segdeploy predict")
