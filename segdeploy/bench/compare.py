"""Two benchmark runs beside each other: which backend became faster or slower, by more than the noise, and its mIoU."""

from __future__ import annotations

from collections import Counter
from typing import Literal, TypeAlias

import numpy as np

from segdeploy.base.errors import GateFailed, GateUndecided
from segdeploy.base.records import Struct
from segdeploy.bench.result import BenchReport, BenchRow, Shape, disagreements
from segdeploy.bench.stats import cautions, reference, run_stats
from segdeploy.bench.words import number
from segdeploy.scores.compare import check_drop

SCHEMA = 1
_RESAMPLES = 2000
# An interval from fewer turns says more of their number than of the noise.
_FEWEST_TURNS = 5
_COVERED = (2.5, 97.5)

Verdict: TypeAlias = Literal["faster", "slower", "within the noise", "too few turns", "not comparable", "not in both"]


class RowChange(Struct, frozen=True):
    """One backend at one shape.

    Attributes:
        model: its name; empty where each run has one model only.
        backend: format and precision.
        shape: (N, H, W).
        old_ms: median latency of ``Session.run``; None where it was not measured.
        new_ms: likewise.
        old_spread: interquartile range over median.
        new_spread: likewise.
        ratio: new over old median.
        interval: of the ratio, 95 %; None where there are too few turns.
        old_eager: median over that of eager in the same run, whose turns lie between its own: what the machine did to both
            cancels out.
        new_eager: likewise.
        verdict: what may be said of the latency.
        old_miou: in per cent.
        new_miou: likewise.
        reason: why it is not in both.
    """

    model: str
    backend: str
    shape: Shape | None
    verdict: Verdict
    old_ms: float | None = None
    new_ms: float | None = None
    old_spread: float | None = None
    new_spread: float | None = None
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    old_eager: float | None = None
    new_eager: float | None = None
    old_miou: float | None = None
    new_miou: float | None = None
    reason: str = ""


class BenchComparison(Struct, frozen=True):
    """The content of ``segdeploy compare --json`` for two benchmark runs.

    Attributes:
        schema: 1.
        kind: what was compared.
        rows: the first run's rows, then those that only the second has.
        differ: what keeps their latencies from being compared: another machine, other threads.
        miou_differ: what keeps their mIoU from being compared: other images.
        cautions: what either run says of its own latencies.
    """

    schema: int
    kind: Literal["benchmarks"]
    rows: tuple[RowChange, ...]
    differ: tuple[str, ...]
    miou_differ: str
    cautions: tuple[str, ...]


def compare_reports(old: BenchReport, new: BenchReport) -> BenchComparison:
    """Match rows by backend, precision and shape, and by model where a run has several."""
    several = any(len({row.model for row in report.rows}) > 1 for report in (old, new))
    before, after = _by_key(old, several=several), _by_key(new, several=several)
    differ = disagreements(old, new)
    rows = [
        _change(key, (old, before.get(key)), (new, after.get(key)), comparable=not differ)
        for key in dict.fromkeys([*before, *after])
    ]
    said = [f"{name}: {text}" for name, report in (("first run", old), ("second run", new)) for text in cautions(report)]
    return BenchComparison(
        schema=SCHEMA,
        kind="benchmarks",
        rows=tuple(rows),
        differ=differ,
        miou_differ="" if old.data == new.data or not old.data or not new.data else f"{_data(old)}, and {_data(new)}",
        cautions=tuple(said),
    )


def ratio_interval(old_ms: tuple[float, ...], new_ms: tuple[float, ...], *, turn: int) -> tuple[float, float] | None:
    """A 95 % interval of the ratio of two medians, new over old, by resampling whole turns.

    Calls within a turn follow each other and are alike; taken as independent they would make the interval too narrow.

    Args:
        old_ms: latencies in the order in which they were measured.
        new_ms: likewise.
        turn: calls that belong together.

    Returns:
        The interval, or None where a run has too few turns.
    """
    random = np.random.default_rng(0)
    medians = []
    for values in (old_ms, new_ms):
        turns = np.asarray(values[: len(values) // turn * turn]).reshape(-1, turn)
        if len(turns) < _FEWEST_TURNS:
            return None
        chosen = random.integers(0, len(turns), (_RESAMPLES, len(turns)))
        medians.append(np.median(turns[chosen].reshape(_RESAMPLES, -1), axis=1))
    low, high = np.percentile(medians[1] / medians[0], _COVERED)
    return float(low), float(high)


def row_name(row: RowChange) -> str:
    """``onnx-fp32 at 1 x 256x256``."""
    name = f"{row.model}/{row.backend}" if row.model else row.backend
    return f"{name} at {row.shape[0]} x {row.shape[1]}x{row.shape[2]}" if row.shape else name


def gate(comparison: BenchComparison, *, max_drop: float | None, max_slowdown: float | None) -> None:
    """Hold the second run to the first.

    Args:
        comparison: the two.
        max_drop: how many points the mIoU of any backend may fall.
        max_slowdown: by how many per cent any median latency may rise; what lies within the interval is not held against it.

    Raises:
        GateFailed: it fell or rose further.
        GateUndecided: a backend of the first run was not measured in the second, or they are not comparable.
    """
    if max_drop is None and max_slowdown is None:
        return
    undecided = []
    for row in comparison.rows:
        where = row_name(row)
        if max_drop is not None and row.old_miou is not None:
            if row.new_miou is None or comparison.miou_differ:
                undecided.append(f"mIoU of {where}")
            else:
                check_drop(f"mIoU of {where}", row.old_miou, row.new_miou, max_drop)
        if max_slowdown is not None and row.old_ms is not None:
            if row.interval is None or comparison.differ:
                undecided.append(f"latency of {where}")
            elif row.interval[0] > 1 + max_slowdown / 100:
                assert row.ratio is not None
                raise GateFailed(
                    expected=f"{where} to become at most {max_slowdown:g} % slower",
                    got=f"{100 * (row.ratio - 1):.1f} %: {number(row.old_ms, 'ms')} to {number(row.new_ms, 'ms')} ms",
                    fix="see the table",
                )
    if undecided:
        raise GateUndecided(
            expected="figures in both runs that can be compared", got=f"none for {', '.join(undecided)}", fix="see above"
        )


def _change(
    key: tuple[str, str, Shape | None, str],
    old: tuple[BenchReport, BenchRow | None],
    new: tuple[BenchReport, BenchRow | None],
    *,
    comparable: bool,
) -> RowChange:
    model, backend, shape, _ = key
    (old_report, before), (new_report, after) = old, new
    first, second = (run_stats(row) if row else None for row in (before, after))
    verdict: Verdict = "not in both"
    ratio = interval = None
    if before and after and before.timing and after.timing and first and second:
        ratio = second.median_ms / first.median_ms
        # A turn of either run may be shorter than the other's: whole turns of both fit the longer.
        turn = max(old_report.settings.turn, new_report.settings.turn)
        interval = ratio_interval(before.timing.run_ms, after.timing.run_ms, turn=turn)
        verdict = _verdict(interval) if comparable else "not comparable"
    return RowChange(
        model=model,
        backend=backend,
        shape=shape,
        verdict=verdict,
        old_ms=first.median_ms if first else None,
        new_ms=second.median_ms if second else None,
        old_spread=first.dispersion if first else None,
        new_spread=second.dispersion if second else None,
        ratio=ratio,
        interval=interval,
        old_eager=_to_eager(old_report, before),
        new_eager=_to_eager(new_report, after),
        old_miou=_miou(before),
        new_miou=_miou(after),
        reason=_reason(before, after),
    )


def _verdict(interval: tuple[float, float] | None) -> Verdict:
    if interval is None:
        return "too few turns"
    low, high = interval
    if low <= 1 <= high:
        return "within the noise"
    return "slower" if low > 1 else "faster"


def _reason(old: BenchRow | None, new: BenchRow | None) -> str:
    for row, name in ((old, "first"), (new, "second")):
        if row is None:
            return f"not part of the {name} run"
        if row.status == "not run":
            return f"not run in the {name}: {row.reason}"
    return ""


def _to_eager(report: BenchReport, row: BenchRow | None) -> float | None:
    eager = reference(report, row) if row else None
    mine, theirs = (run_stats(one) if one else None for one in (row, eager))
    return mine.median_ms / theirs.median_ms if mine and theirs and eager is not row else None


def _by_key(report: BenchReport, *, several: bool) -> dict[tuple[str, str, Shape | None, str], BenchRow]:
    """Rows by (model, backend, shape, folder); the folder only where without it two rows would be one."""
    short = Counter((row.model if several else "", row.label, row.shape) for row in report.rows)
    found = {}
    for row in report.rows:
        model = row.model if several else ""
        folder = row.folder if short[model, row.label, row.shape] > 1 else ""
        found[model, row.label, row.shape, folder] = row
    return found


def _miou(row: BenchRow | None) -> float | None:
    return row.evaluation.miou if row and row.evaluation else None


def _data(report: BenchReport) -> str:
    return f"{report.data.images} images of {report.data.name}" if report.data else "none"
