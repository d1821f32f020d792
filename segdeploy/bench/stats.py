"""Everything that is computed from raw values, in one place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segdeploy.bench.result import BenchReport, BenchRow, Peak

# The 99th percentile of fewer values is the largest of them or an interpolation towards it: an outlier, not a percentile.
SAMPLES_FOR_P99 = 100
_UNSTABLE_DISPERSION = 0.10
_FEW_SAMPLES = 10
_FREE_CPU_SHARE = 0.75


@dataclass(frozen=True)
class Stats:
    """Of one list of latencies.

    Attributes:
        count: how many values.
        min_ms: the smallest.
        median_ms: the 50th percentile.
        p90_ms: the 90th, interpolated linearly as numpy does.
        p99_ms: the 99th; None below ``SAMPLES_FOR_P99`` values.
        dispersion: interquartile range over median.
    """

    count: int
    min_ms: float
    median_ms: float
    p90_ms: float
    p99_ms: float | None
    dispersion: float


def latency_stats(values_ms: Sequence[float]) -> Stats:
    """Summarise raw latencies; there must be at least one."""
    q25, median, q75, p90, p99 = (float(v) for v in np.percentile(values_ms, [25, 50, 75, 90, 99]))
    return Stats(
        count=len(values_ms),
        min_ms=float(min(values_ms)),
        median_ms=median,
        p90_ms=p90,
        p99_ms=p99 if len(values_ms) >= SAMPLES_FOR_P99 else None,
        dispersion=(q75 - q25) / median,
    )


def run_stats(row: BenchRow) -> Stats | None:
    """Of ``Session.run``, host to host; None where the row was not run."""
    return latency_stats(row.timing.run_ms) if row.timing else None


def execute_stats(row: BenchRow) -> Stats | None:
    """Of ``Session.execute``, the network alone; None where it was not measured."""
    return latency_stats(row.timing.execute_ms) if row.timing and row.timing.execute_ms else None


def throughput(row: BenchRow) -> float | None:
    """Images a second, one batch after another, at the median latency of ``run``."""
    stats = run_stats(row)
    return 1000 * row.shape[0] / stats.median_ms if stats and row.shape else None


def reference(report: BenchReport, row: BenchRow) -> BenchRow | None:
    """The measured eager row of the same checkpoint and shape, run as mmseg itself runs it."""
    if row.checkpoint_sha256 is None:
        return None
    same = (
        one
        for one in measured(report)
        if one.backend == "eager"
        and not one.variation
        and (one.checkpoint_sha256, one.shape) == (row.checkpoint_sha256, row.shape)
    )
    return next(same, None)


def speedup(report: BenchReport, row: BenchRow) -> float | None:
    """Median latency of eager over this row's, at the same shape; None where either was not measured."""
    mine, eager = run_stats(row), reference(report, row)
    theirs = run_stats(eager) if eager else None
    return theirs.median_ms / mine.median_ms if mine and theirs else None


def peak_gmac_s(peak: Peak) -> float | None:
    """10^9 multiplications a second of its fastest product; None where it was not timed."""
    return 1000 * peak.gmac / min(peak.run_ms) if peak.run_ms else None


def share_of_peak(report: BenchReport, row: BenchRow) -> float | None:
    """The model's own multiplications a second, of the median ``run``, over what the machine can do in the row's precision.

    An export that does the same by fewer multiplications has a larger share of the peak, and may go beyond it.
    """
    mine, eager = run_stats(row), reference(report, row)
    if mine is None or eager is None or eager.gmac is None or row.device is None:
        return None
    wanted = "tf32" if row.variation == "tf32" else row.precision, "cuda" if row.device.startswith("cuda") else "cpu"
    best = next((peak_gmac_s(peak) for peak in report.peaks if (peak.precision, peak.device) == wanted), None)
    return 1000 * eager.gmac / mine.median_ms / best if best else None


def miou_delta(report: BenchReport, row: BenchRow) -> float | None:
    """This row's mIoU less eager's, in points; None where either was not evaluated."""
    eager = reference(report, row)
    if row.evaluation is None or eager is None or eager.evaluation is None:
        return None
    return row.evaluation.miou - eager.evaluation.miou


def measured(report: BenchReport) -> tuple[BenchRow, ...]:
    """The rows that hold figures."""
    return tuple(row for row in report.rows if row.status == "measured")


def not_run(report: BenchReport) -> tuple[BenchRow, ...]:
    """The rows that hold a reason instead."""
    return tuple(row for row in report.rows if row.status == "not run")


def fastest(rows: Sequence[BenchRow]) -> BenchRow | None:
    """The measured row with the smallest median latency; None where there is none."""
    timed = [(stats.median_ms, index) for index, row in enumerate(rows) if (stats := run_stats(row))]
    return rows[min(timed)[1]] if timed else None


def row_labels(report: BenchReport) -> tuple[str, ...]:
    """A name for each row, as short as tells the artifacts apart: format and precision, with the model, or the folder."""
    artifacts = {(row.model, row.folder, row.label) for row in report.rows}
    short = Counter(label for _, _, label in artifacts)
    full = Counter((model, label) for model, _, label in artifacts)

    def name(row: BenchRow) -> str:
        if short[row.label] == 1:
            return row.label
        return f"{row.model}/{row.label}" if full[row.model, row.label] == 1 else row.folder

    return tuple(name(row) for row in report.rows)


def cautions(report: BenchReport) -> tuple[str, ...]:
    """Why the latencies may be unstable, and what to do about it; empty where nothing speaks against them."""
    found = []
    load, threads = report.environment.load, report.settings.threads or 1
    # Elsewhere on a large machine other programs do no harm: what counts is whether our threads found CPUs that were free.
    if load.other_cpus is not None and load.cpus and load.cpus - load.other_cpus < _FREE_CPU_SHARE * threads:
        found.append(
            f"Other programs kept {load.other_cpus:.1f} of {load.cpus} CPUs busy while latencies were taken, which makes them "
            "longer. Close those programs and measure again, or lower --threads."
        )
    if report.environment.governor not in (None, "performance"):
        found.append(
            f"The CPU's clock may change during the run: its governor is '{report.environment.governor}'. "
            "Set it with: cpupower frequency-set -g performance"
        )
    for row, label in zip(report.rows, row_labels(report), strict=True):
        stats = run_stats(row)
        if stats is None or row.shape is None:
            continue
        where = f"{label} at {shape_text(row)}"
        if stats.count < _FEW_SAMPLES:
            found.append(f"{where} has too few values ({stats.count}). Raise --iterations, or --max-time if it ended the run.")
        elif stats.dispersion > _UNSTABLE_DISPERSION:
            found.append(
                f"{where} may be unstable: the middle half of its latencies spreads over {100 * stats.dispersion:.0f} % of "
                "the median. Close other programs, raise --iterations, or lower --threads."
            )
    return tuple(found)


def shape_text(row: BenchRow) -> str:
    """``1 x 256x256``: N x HxW."""
    return "-" if row.shape is None else f"{row.shape[0]} x {row.shape[1]}x{row.shape[2]}"
