"""Growth as text and as a plot."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segdeploy.base.errors import InputError, MissingExtraError
from segdeploy.base.files import new_file
from segdeploy.bench.growth import TILED_SIDES, TILES_LIMIT_BYTES, Curve, GrowthReport
from segdeploy.bench.words import NO_FIGURE, number

_SUFFIXES = (".svg", ".png", ".pdf")


def growth_rows(curve: Curve) -> list[list[str]]:
    """The cells of a curve: size, median ms, calls, times the smallest, resident memory; a reason in place of the figures."""
    smallest = next((float(np.median(point.ms)) for point in curve.points if point.ms), None)
    rows = []
    for point in curve.points:
        median = float(np.median(point.ms)) if point.ms else None
        more = median / smallest if median is not None and smallest else None
        rss = point.peak_rss_bytes
        figures = [number(median, "ms"), str(len(point.ms)), number(more, ".2f", "x"), number(rss and rss / 1e6, ".0f")]
        rows.append([point.label, *(figures if point.reason is None else [f"not run: {point.reason}", *[NO_FIGURE] * 3])])
    return rows


def growth_sentences(report: GrowthReport) -> list[str]:
    """The fitted exponents, and whether the largest picture in tiles kept below the limit of memory."""
    said = []
    for curve in report.curves:
        if curve.exponent is not None:
            said.append(f"cost ~ {curve.name}^{curve.exponent:.2f}: {curve.verdict}")
        if curve.name == "tiles":
            last = curve.points[-1]
            if last.value == TILED_SIDES[-1] ** 2 and last.peak_rss_bytes is not None:
                held = "below" if last.peak_rss_bytes < TILES_LIMIT_BYTES else "ABOVE"
                said.append(
                    f"{last.label} by tiles: {last.peak_rss_bytes / 1e9:.2f} GB of resident memory, {held} "
                    f"{TILES_LIMIT_BYTES / 1e9:.0f} GB"
                )
    return said


def draw_growth(report: GrowthReport, path: Path) -> None:
    """One panel a curve, both axes logarithmic: medians, every value, and the fitted line.

    Raises:
        MissingExtraError: matplotlib is not installed.
        InputError: a suffix that is no picture's, or a place that cannot be written.
    """
    if path.suffix not in _SUFFIXES:
        raise InputError(expected=f"a --plot file that ends in {', '.join(_SUFFIXES)}", got=f"'{path.name}'", fix="rename it")
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter, LogFormatter, NullLocator
    except ModuleNotFoundError as error:
        raise MissingExtraError(package="matplotlib", extra="bench", purpose="the plot of growth") from error
    curves = [curve for curve in report.curves if curve.exponent is not None]
    figure = Figure(figsize=(3.4 * max(len(curves), 1), 3.4), layout="constrained")
    for axes, curve in zip(np.atleast_1d(figure.subplots(1, max(len(curves), 1))), curves, strict=False):
        timed = [point for point in curve.points if point.ms]
        x = np.array([point.value for point in timed], float)
        y = np.array([np.median(point.ms) for point in timed])
        for point in timed:
            axes.plot([point.value] * len(point.ms), point.ms, ".", color="#0b6e75", alpha=0.35)
        slope, offset = np.polyfit(np.log(x), np.log(y), 1)
        axes.plot(x, y, "o", color="#0b6e75")
        axes.plot(x, np.exp(offset) * x**slope, color="#6f7a80", linewidth=1)
        axes.set_xscale("log")
        axes.set_yscale("log")
        # Ticks where something was measured: a logarithmic scale's own labels stand in each other's way within one decade.
        axes.set_xticks(x, [EngFormatter(places=0, sep="")(value) for value in x], fontsize=8)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
        axes.set_xlabel(curve.name)
        axes.set_ylabel("ms")
        axes.set_title(f"exponent {slope:.2f}", fontsize=10)
    with new_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150)
