"""A report as text: the cells of its table, and the table on a terminal."""

from __future__ import annotations

from segdeploy.bench.result import BenchReport, BenchRow, Shape
from segdeploy.bench.stats import (
    cautions,
    execute_stats,
    latency_stats,
    miou_delta,
    row_labels,
    share_of_peak,
    speedup,
    throughput,
)
from segdeploy.bench.words import NO_FIGURE, headline, notes, number

COLUMNS = (
    "backend", "device", "median ms", "p90 ms", "p99 ms", "network median ms", "images/s", "vs eager", "of peak",
    "mIoU", "mIoU to eager", "parity", "MB", "RSS MB",
)  # fmt: skip
# A terminal is narrow; the rest is in the page and, as raw values, in the JSON.
_TERMINAL_COLUMNS = tuple(name for name in COLUMNS if name not in ("p99 ms", "network median ms"))
_WIDTH_WITHOUT_TERMINAL = 140
_STYLES = {"passed": "green", "failed": "bold red", "not run": "yellow", "not verified": "yellow", "skipped": "yellow"}


def cells(report: BenchReport, row: BenchRow, label: str) -> dict[str, str]:
    """One row as text, by column; every figure of a row that was not run is a dash."""
    if row.timing is None:
        return dict.fromkeys(COLUMNS, NO_FIGURE) | {"backend": label}
    share = share_of_peak(report, row)
    stats, network, peak = latency_stats(row.timing.run_ms), execute_stats(row), row.timing.peak_rss_bytes
    return {
        "backend": label,
        "device": row.device or NO_FIGURE,
        "median ms": number(stats.median_ms, "ms"),
        "p90 ms": number(stats.p90_ms, "ms"),
        "p99 ms": number(stats.p99_ms, "ms"),
        "network median ms": number(network.median_ms if network else None, "ms"),
        "images/s": number(throughput(row), "ms"),
        "vs eager": number(speedup(report, row), ".2f", "x"),
        "of peak": number(share and 100 * share, ".0f", " %"),
        "mIoU": number(row.evaluation.miou if row.evaluation else None, ".2f"),
        "mIoU to eager": number(miou_delta(report, row), "+.2f"),
        "parity": row.parity,
        "MB": number(row.size_bytes and row.size_bytes / 1e6, ".1f"),
        "RSS MB": number(peak and peak / 1e6, ".0f"),
    }


def by_shape(report: BenchReport) -> dict[Shape | None, list[tuple[BenchRow, str]]]:
    """The rows and their labels, grouped as they were measured."""
    groups: dict[Shape | None, list[tuple[BenchRow, str]]] = {}
    for row, label in zip(report.rows, row_labels(report), strict=True):
        groups.setdefault(row.shape, []).append((row, label))
    return groups


def print_report(report: BenchReport) -> None:
    """The tables on stdout, then what they say."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH_WITHOUT_TERMINAL)
    for shape, rows in by_shape(report).items():
        table = Table(title=Text(_title(report, shape)), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        columns = [name for name in _TERMINAL_COLUMNS if name != "of peak" or report.peaks]
        for name in columns:
            table.add_column(name, justify="left" if name in ("backend", "device", "parity") else "right", overflow="fold")
        for row, label in rows:
            texts = cells(report, row, label)
            if row.status == "not run":
                texts["median ms"] = "not run"
            table.add_row(*(Text(texts[name], style=_STYLES.get(texts[name], "")) for name in columns))
        console.print(table)
    for sentence in headline(report):
        console.print(Text(sentence), soft_wrap=True)
    for note in (*notes(report), *cautions(report)):
        console.print(Text(note, style="dim"), soft_wrap=True)


def _title(report: BenchReport, shape: Shape | None) -> str:
    if shape is None:
        return "Not run"
    count, height, width = shape
    return f"{count} x {height}x{width}, {report.settings.threads} CPU threads"
