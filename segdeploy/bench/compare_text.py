"""A comparison of two benchmark runs in words and as a table."""

from __future__ import annotations

from segdeploy.bench.compare import BenchComparison, row_name
from segdeploy.bench.words import number
from segdeploy.scores.compare import difference


def summary(comparison: BenchComparison) -> tuple[str, ...]:
    """What a reader should take away, in sentences."""
    said = []
    if comparison.differ:
        said.append(f"The latencies cannot be compared: {'; '.join(comparison.differ)}.")
    for row in comparison.rows:
        where = row_name(row)
        if row.verdict in ("faster", "slower") and row.ratio is not None and row.interval is not None:
            low, high = sorted(abs(100 * (edge - 1)) for edge in row.interval)
            cost = f"{number(row.old_ms, 'ms')} to {number(row.new_ms, 'ms')} ms"
            by = f"{abs(100 * (row.ratio - 1)):.1f} % ({low:.1f} to {high:.1f} %)"
            said.append(f"{where} is {row.verdict} by {by}: {cost}.")
        elif row.verdict == "not in both":
            said.append(f"{where}: {row.reason}.")
    same = [row for row in comparison.rows if row.verdict == "within the noise"]
    if same:
        said.append(f"Within the noise: {', '.join(map(row_name, same))}.")
    few = [row for row in comparison.rows if row.verdict == "too few turns"]
    if few:
        said.append(f"Too few calls to tell noise from change: {', '.join(map(row_name, few))}. Raise --iterations.")
    if any(row.interval for row in comparison.rows) and not comparison.differ:
        said.append(
            "The intervals (95 %) hold what varied within each run, not what differs from run to run, such as the clock or the "
            "temperature: repeat a run to see that."
        )
    if comparison.miou_differ:
        said.append(f"The mIoU cannot be compared: {comparison.miou_differ}.")
    return tuple(said)


def table(comparison: BenchComparison) -> tuple[list[str], list[list[str]]]:
    """Columns and cells."""
    columns = ["backend", "latency", "old ms", "new ms", "change", "95 %", "spread", "to eager", "mIoU", "change"]
    rows = []
    for row in comparison.rows:
        interval = [number(100 * (edge - 1), "+.1f") for edge in row.interval] if row.interval else None
        rows.append(
            [
                row_name(row),
                row.verdict,
                number(row.old_ms, "ms"),
                number(row.new_ms, "ms"),
                number(100 * (row.ratio - 1) if row.ratio else None, "+.1f", " %"),
                f"{interval[0]} .. {interval[1]}" if interval else "-",
                _arrow(row.old_spread and 100 * row.old_spread, row.new_spread and 100 * row.new_spread, ".0f", " %"),
                _arrow(row.old_eager, row.new_eager, ".2f", "x"),
                _arrow(row.old_miou, row.new_miou, ".2f", ""),
                number(difference(row.old_miou, row.new_miou), "+.2f"),
            ]
        )
    return columns, rows


def _arrow(old: float | None, new: float | None, spec: str, unit: str) -> str:
    return "-" if old is None and new is None else f"{number(old, spec)} → {number(new, spec, unit)}"
