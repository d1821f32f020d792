"""What a model is shown, as time goes on: the share of the pixels that each class has, as a mean of the last pictures."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

import numpy as np

_INTERVAL_S = 10.0


class Drift:
    """Sums shares up, and gives their means now and then: a line a class and picture would be more than anyone can keep."""

    def __init__(self, classes: Sequence[str], interval_s: float = _INTERVAL_S) -> None:
        self._classes, self._interval_s = classes, interval_s
        self._sums = np.zeros(len(classes))
        self._count = 0
        self._due = time.monotonic()
        self._lock = threading.Lock()

    def add(self, shares: Mapping[int, float]) -> dict[str, float]:
        """Note a picture.

        Args:
            shares: label -> share of its pixels.

        Returns:
            Where it is time: class -> mean share of the pictures since the last time, those that did not occur among them.
        """
        with self._lock:
            for label, share in shares.items():
                self._sums[label] += share
            self._count += 1
            now = time.monotonic()
            if now < self._due:
                return {}
            means = {name: float(total / self._count) for name, total in zip(self._classes, self._sums, strict=True)}
            self._sums[:], self._count, self._due = 0, 0, now + self._interval_s
            return means
