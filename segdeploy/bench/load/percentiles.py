"""Percentiles of latencies, and only those that the count of independent values supports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHARES = (0.5, 0.9, 0.95, 0.99)
_LEVEL = 0.95


@dataclass(frozen=True)
class Percentile:
    """One percentile with its interval.

    Attributes:
        value: interpolated linearly, in the values' unit.
        low: the lower end of the 95 % interval.
        high: the upper end.
    """

    value: float
    low: float
    high: float


def percentile(values: Sequence[float], share: float) -> Percentile | None:
    """A percentile by order statistics, which assume no distribution.

    The interval runs between the values whose ranks bracket the percentile in 95 of 100 samples (binomial ranks; Conover,
    Practical Nonparametric Statistics, 3.2). Ranks are of independent values: neighbours in a queue wait together.

    Args:
        values: in the order of their time.
        share: such as 0.99.

    Returns:
        None where even the largest value is no upper bound: for the 99th percentile, below 368 independent values.
    """
    count = int(independent(values))
    ranks = _ranks(count, share)
    if ranks is None:
        return None
    ordered = np.sort(np.asarray(values, float))
    low, high = (round(rank / count * len(ordered)) for rank in ranks)
    return Percentile(
        float(np.quantile(ordered, share)), float(ordered[max(low, 1) - 1]), float(ordered[min(high, len(ordered)) - 1])
    )


def independent(values: Sequence[float]) -> float:
    """How many independent values these are worth: their count over their autocorrelation time.

    Taken of ranks, so that one stall does not hide the rest; summed over pairs of lags as long as these are positive (Geyer's
    initial positive sequence).
    """
    count = len(values)
    if count < 4:
        return float(count)
    ranks = np.argsort(np.argsort(np.asarray(values, float), kind="stable"), kind="stable").astype(float)
    ranks -= ranks.mean()
    size = 1 << (2 * count - 1).bit_length()
    spectrum = np.abs(np.fft.rfft(ranks, size)) ** 2
    correlation: NDArray[np.float64] = np.fft.irfft(spectrum, size)[:count]
    correlation /= correlation[0]
    pairs = correlation[: count // 2 * 2].reshape(-1, 2).sum(axis=1)
    ends = np.flatnonzero(pairs <= 0)
    time = 2 * float(pairs[: ends[0] if len(ends) else len(pairs)].sum()) - 1
    return count / max(time, 1.0)


def _ranks(count: int, share: float) -> tuple[int, int] | None:
    """The ranks, from 1, whose values hold the percentile between them at 95 %."""
    tail = (1 - _LEVEL) / 2
    if count < 1 or share**count > tail or (1 - share) ** count > tail:
        return None
    k = np.arange(count + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    log_mass = log_factorial[-1] - log_factorial[k] - log_factorial[count - k]
    below = np.cumsum(np.exp(log_mass + k * math.log(share) + (count - k) * math.log1p(-share)))
    low = int(np.searchsorted(below, tail, side="right"))  # the largest rank with P(fewer lie below) <= tail
    high = int(np.searchsorted(below, 1 - tail)) + 1
    return max(low, 1), min(high, count)
