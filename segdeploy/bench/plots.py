"""Plots as SVG that takes its colours and its type from the page around it, and so follows its light and dark scheme."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from segdeploy.base.errors import MissingExtraError

# Colours that no plot would choose; each becomes a variable of the page's style sheet.
_INK, _GRID, _ACCENT, _REFERENCE = "#010203", "#010204", "#010205", "#010206"
_VARIABLES = {_INK: "var(--ink)", _GRID: "var(--rule)", _ACCENT: "var(--accent)", _REFERENCE: "var(--quiet)"}
_WIDTH_IN, _ROW_IN, _FRAME_IN = 10.3, 0.55, 0.75
_LABEL_IN = 1.7
# A raw value beyond this many medians would squeeze all others together; it is drawn at the edge and said.
_LARGEST_SHARE_OF_PLOT = 3.0


def strip_plot(series: Sequence[tuple[str, Sequence[float]]], *, reference: int | None) -> str:
    """Every raw latency as a dot, and the median as a stroke; one line a backend, zero included.

    Args:
        series: (label, latencies in ms) from top to bottom.
        reference: which of them is the reference, drawn quietly.

    Returns:
        An ``<svg>`` element.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = _axes([label for label, _ in series])
    limit = _LARGEST_SHARE_OF_PLOT * max(float(np.median(values)) for _, values in series)
    beyond = 0
    for row, (_, values) in enumerate(series):
        inside = [value for value in values if value <= limit]
        beyond += len(values) - len(inside)
        # Jitter that is the same in every run: dots that would hide each other stand beside each other.
        jitter = np.random.default_rng(0).uniform(-0.24, 0.24, len(inside))
        colour = _REFERENCE if row == reference else _ACCENT
        axes.scatter(inside, row + jitter, s=13, color=colour, alpha=0.45, linewidths=0)
        axes.plot([np.median(values)] * 2, [row - 0.34, row + 0.34], color=_INK, linewidth=2)
    axes.set_xlim(left=0)
    note = f" ({beyond} beyond {limit:.0f} ms not drawn)" if beyond else ""
    axes.set_xlabel(f"ms a call, host to host{note}")
    return _svg(figure, "strip")


def bar_plot(bars: Sequence[tuple[str, float, str]], *, unit: str, reference: int | None) -> str:
    """Horizontal bars from zero, with their figure at the end.

    Args:
        bars: (label, value, text behind the bar) from top to bottom.
        unit: of the values.
        reference: which of them is the reference, drawn quietly.

    Returns:
        An ``<svg>`` element.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure, axes = _axes([label for label, _, _ in bars])
    for row, (_, value, text) in enumerate(bars):
        axes.barh(row, value, height=0.5, color=_REFERENCE if row == reference else _ACCENT)
        axes.annotate(text, (value, row), xytext=(6, 0), textcoords="offset points", va="center", color=_INK, fontsize=10)
    axes.set_xlim(0, 1.45 * max(value for _, value, _ in bars))  # room for the text behind the longest bar
    axes.set_xlabel(unit)
    return _svg(figure, "bars")


def _axes(labels: Sequence[str]) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError(package="matplotlib", extra="bench", purpose="plots in the HTML page") from error
    height = _FRAME_IN + _ROW_IN * len(labels)
    figure = Figure(figsize=(_WIDTH_IN, height))
    left = _LABEL_IN / _WIDTH_IN
    axes = figure.add_axes((left, 0.6 / height, 0.98 - left, 1 - _FRAME_IN / height))
    axes.set_yticks(range(len(labels)), [_shortened(label) for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=_INK, labelsize=10)
    axes.xaxis.label.set_color(_INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.patch.set_alpha(0)
    figure.patch.set_alpha(0)
    return figure, axes


def _shortened(label: str, longest: int = 20) -> str:
    text = label if len(label) <= longest else "…" + label[-longest + 1 :]
    return text.replace("$", r"\$")  # matplotlib would read it as mathematics


def _svg(figure: Any, name: str) -> str:
    import matplotlib as mpl

    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=nothing, transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]  # an inline element has no XML declaration
    text = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"font: (\d+)px[^;\"]*", r"font-size: \1px", text)  # the page's own typeface
    text = re.sub(
        r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", r'<svg xmlns:xlink="http://www.w3.org/1999/xlink" \1 role="img">', text
    )
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return text.strip()
