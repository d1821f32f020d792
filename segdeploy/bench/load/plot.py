"""Latency against rate, drawn."""

from __future__ import annotations

from pathlib import Path

from segdeploy.base.errors import InputError, MissingExtraError
from segdeploy.base.files import new_file
from segdeploy.bench.load.percentiles import percentile
from segdeploy.bench.load.result import LoadReport
from segdeploy.bench.load.text import all_trials

SUFFIXES = (".svg", ".png", ".pdf")
_LINES = ((0.5, "p50", "#0b6e75"), (0.95, "p95", "#b0671b"), (0.99, "p99", "#a02c3f"))


def check_plot(path: Path) -> None:
    """Refuse before anything is measured what could not be drawn after it.

    Raises:
        MissingExtraError: matplotlib is not installed.
        InputError: a suffix that is no picture's.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(expected=f"a --plot file that ends in {', '.join(SUFFIXES)}", got=f"'{path.name}'", fix="rename it")
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(package="matplotlib", extra="bench", purpose="the plot of latencies") from error


def draw_load(report: LoadReport, path: Path) -> None:
    """Percentiles with their intervals over the rate; of closed loops over the rate that came of them. Crosses failed requests.

    Raises:
        InputError: a place that cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    trials = sorted(
        ((trial.rate if trial.rate is not None else trial.answered_per_s, trial) for trial in all_trials(report)),
        key=lambda pair: pair[0],
    )
    whole = [(rate, trial) for rate, trial in trials if trial.latency_ms and not trial.ended_early]
    for share, label, colour in _LINES:
        points = [(rate, found) for rate, trial in whole if (found := percentile(trial.latency_ms, share))]
        x, y = [rate for rate, _ in points], [found.value for _, found in points]
        spread = [[one.value - one.low for _, one in points], [one.high - one.value for _, one in points]]
        if points:
            axes.errorbar(x, y, yerr=spread, fmt="o-", markersize=4, capsize=3, color=colour, label=label, linewidth=1.2)
    for rate, trial in whole:
        if trial.failures:
            axes.plot(rate, max(trial.latency_ms), "x", color="#000000")
    if report.search is not None:
        axes.axhline(report.search.target_p99_ms, color="#6f7a80", linewidth=1, linestyle="--", label="target of p99")
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.grid(color="#e3e6e8", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel("requests a second")
    axes.set_ylabel("ms, from when a request was due")
    if whole or report.search is not None:
        axes.legend(frameon=False)
    with new_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150)
