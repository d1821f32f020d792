"""The highest rate at which 99 of 100 requests are answered within a time: by bisection, and measured again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from segdeploy.bench.load.drive import LATE_SHARE
from segdeploy.bench.load.result import Search, Trial

_STEP = 2.0
_LOWEST = 1 / 8  # of the first rate, half of what one client can do: below it no request waits for another
_CLOSE = 1.1  # the search ends where the rate that holds and the one that does not are this near
_MOST_TRIALS, _MOST_CONFIRMATIONS = 16, 5

# A rate to a trial of it, which ends early where it cannot hold: each time other arrivals, and pictures in another order.
Measure: TypeAlias = Callable[[float], Trial]


def late_share(trial: Trial, target_ms: float) -> float:
    """Share of the requests sent that came later than the target, or failed."""
    late = sum(ms > target_ms for ms in trial.latency_ms) + trial.failures
    return late / max(len(trial.latency_ms) + trial.failures, 1)


def keeps(trial: Trial, target_ms: float) -> bool:
    """Whether p99 is within the target; what failed counts as later than any."""
    return not trial.ended_early and late_share(trial, target_ms) <= LATE_SHARE


def search(measure: Measure, start: float, target_ms: float, highest: float, keep: Callable[[Search], None]) -> Search:
    """Find it.

    Args:
        measure: one rate.
        start: a first guess, in requests a second.
        target_ms: of the 99th percentile.
        highest: no rate beyond it is tried.
        keep: is told what there is after each trial, for who interrupts it.
    """
    tried: list[Trial] = []
    rejected: list[Trial] = []
    confirmed: Trial | None = None

    def told() -> Search:
        found = Search(target_p99_ms=target_ms, tried=tuple(tried), confirmed=confirmed, rejected=tuple(rejected))
        keep(found)
        return found

    def holds(rate: float) -> bool:
        tried.append(measure(rate))
        told()
        return keeps(tried[-1], target_ms)

    rate = _bisected(holds, min(start, highest), highest)
    while rate is not None and len(rejected) < _MOST_CONFIRMATIONS:
        again = measure(rate)
        if keeps(again, target_ms):
            confirmed = again
            break
        rejected.append(again)
        told()
        # Luck chose it: the next below that held, but a step down at most.
        lower = [one.rate for one in tried if one.rate is not None and one.rate < rate and keeps(one, target_ms)]
        rate = max([*lower, rate / _CLOSE])
    return told()


def _bisected(holds: Callable[[float], bool], start: float, highest: float) -> float | None:
    """The highest rate that held; None where none did."""
    good: float | None = None
    bad: float | None = None
    rate = start
    for _ in range(_MOST_TRIALS):
        if holds(rate):
            good = rate
        else:
            bad = rate
        if good is None:
            rate /= _STEP
            if rate < start * _LOWEST:
                break
        elif good >= highest or (bad is not None and bad / good <= _CLOSE):
            break
        else:
            rate = min(good * _STEP, highest) if bad is None else (good * bad) ** 0.5
    return good
