"""What a report says, in words. The terminal and the HTML page say the same."""

from __future__ import annotations

from segdeploy.bench.result import BenchReport, BenchRow
from segdeploy.bench.stats import (
    fastest,
    measured,
    miou_delta,
    not_run,
    peak_gmac_s,
    reference,
    row_labels,
    run_stats,
    shape_text,
    speedup,
)

NO_FIGURE = "-"
# Two float backends differ by less through rounding alone on a real validation set.
_SAME_MIOU_POINTS = 0.05


def headline(report: BenchReport) -> tuple[str, ...]:
    """What a reader should take away, in sentences.

    The fastest backend of every shape and model comes first, then mIoU, then what was not run.
    """
    labels = dict(zip(map(id, report.rows), row_labels(report), strict=True))
    said = [
        f"{model} has RANDOM WEIGHTS: these are its latencies, but its labels mean nothing."
        for model in dict.fromkeys(row.model for row in measured(report) if row.random_weights)
    ]
    groups = dict.fromkeys((row.shape, row.checkpoint_sha256 or row.model) for row in measured(report))
    for shape, model in groups:
        rows = [r for r in measured(report) if (r.shape, r.checkpoint_sha256 or r.model) == (shape, model)]
        best = fastest(rows)
        assert best is not None
        said.append(_speed_sentence(report, best, labels[id(best)], alone=len(rows) == 1))
        if best.parity in ("failed", "undecided", "skipped", "not verified"):
            said.append(_parity_sentence(best, labels[id(best)]))
    said += _miou_sentences(report, labels)
    for row in not_run(report):
        where = f" at {shape_text(row)}" if row.shape else ""
        said.append(f"{labels[id(row)]}{where} was not run: {row.reason}")
    return tuple(said)


def number(value: float | None, spec: str, unit: str = "") -> str:
    """A figure, or a dash where there is none. The spec ``ms`` keeps three digits or more."""
    if value is None:
        return NO_FIGURE
    if spec == "ms":
        spec = ".0f" if value >= 100 else ".1f" if value >= 10 else ".2f"
    text = f"{value:{spec}}"
    # A difference that rounds to nothing has no sign.
    return (text.replace("-", "").replace("+", "") if float(text) == 0 else text) + unit


def notes(report: BenchReport) -> tuple[str, ...]:
    """How to read the figures: what was timed, on which input, what mIoU was measured on."""
    settings = report.settings
    counts = sorted({len(row.timing.run_ms) for row in measured(report) if row.timing})
    if not counts:
        return ()
    values = " or ".join(map(str, counts))
    source = "real images" if report.data else "seeded noise"
    how = f"{values} calls a backend on {source}, {settings.threads} CPU threads, the backends in turns"
    said = [f"Latency is host to host: {how}."]
    if counts[0] < settings.iterations:
        said.append(f"{settings.iterations} calls were asked for; --max-time {settings.max_time_s:g} s ended it earlier.")
    data = report.data
    if data:
        part = "all" if data.images == data.total else f"only the first {data.images} of"
        said.append(f"mIoU is on {part} {data.total} images of {data.name}.")
    said += _peak_notes(report)
    said += dict.fromkeys(f"No mIoU: {row.evaluation_note}" for row in measured(report) if row.evaluation_note)
    return tuple(said)


def _peak_notes(report: BenchReport) -> list[str]:
    if not report.peaks:
        return []
    rates = [
        f"{peak.precision} {number(rate, 'ms')} ({peak.runtime} on {peak.device})"
        if (rate := peak_gmac_s(peak))
        else f"{peak.precision} on {peak.device} not timed: {peak.reason}"
        for peak in report.peaks
    ]
    kinds = "its fastest large matrix product or convolution"
    said = [f"The machine's peak, by {kinds}, in 10^9 multiplications a second: {', '.join(rates)}."]
    works = [
        f"{row.model} at {shape_text(row)} needs {number(row.gmac, 'ms')}" for row in measured(report) if row.gmac is not None
    ]
    if works:
        said.append(
            f"'of peak' is the work of the model as it was trained (10^9 multiplications: {', '.join(works)}), a second, over "
            "that; a restructured export does the same by fewer."
        )
    return said


def _speed_sentence(report: BenchReport, best: BenchRow, label: str, *, alone: bool) -> str:
    stats, eager = run_stats(best), reference(report, best)
    assert stats is not None
    assert best.shape is not None
    count, height, width = best.shape
    batch = "one image" if count == 1 else f"a batch of {count}"
    cost = f"{number(stats.median_ms, 'ms')} ms for {batch} of {height}x{width}"
    if alone:
        return f"{label} takes {cost}."
    ratio = speedup(report, best)
    if eager is best:
        return f"Nothing measured is faster than eager PyTorch: {cost}."
    against = f", {ratio:.1f} times as fast as eager PyTorch" if ratio else ""
    return f"{label} is the fastest: {cost}{against}."


def _parity_sentence(row: BenchRow, label: str) -> str:
    if row.parity == "failed":
        return f"But {label} failed parity: it is not the same model as its checkpoint. Do not deploy it."
    return f"Whether {label} is the same model as its checkpoint was not proven here: run segdeploy verify."


def _miou_sentences(report: BenchReport, labels: dict[int, str]) -> list[str]:
    # An artifact's evaluation is repeated in its rows of other shapes.
    scored = list({(r.folder, r.label): r for r in measured(report) if r.evaluation}.values())
    if not scored:
        return []
    data = report.data
    images = f" on {data.images} images" if data else ""
    shown = [f"{row.evaluation.miou:.2f}" for row in scored if row.evaluation]
    if len(set(shown)) == 1:
        who = f"mIoU is {shown[0]}" if len(scored) == 1 else f"All {len(scored)} evaluated backends reach mIoU {shown[0]}"
        return [f"{who}{images}."]
    said = [f"mIoU{images}: " + ", ".join(f"{labels[id(r)]} {text}" for r, text in zip(scored, shown, strict=True)) + "."]
    for row in scored:
        delta = miou_delta(report, row)
        if delta is not None and delta < -_SAME_MIOU_POINTS:
            said.append(f"{labels[id(row)]} loses {-delta:.2f} points of mIoU against eager.")
    return said
