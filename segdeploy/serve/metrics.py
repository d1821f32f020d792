"""What a predictor measures, by name: each server passes it on in its own way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class Metric:
    """One that is exported.

    Attributes:
        name: as Prometheus shows it.
        kind: ``counter`` (values are added up), ``gauge`` (the last one counts) or ``histogram``.
        unit: of the values.
        labels: what each value is told apart by.
        help: a sentence.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    labels: tuple[str, ...]
    help: str


REQUESTS = Metric("segdeploy_requests", "counter", "count", ("status",), "Requests answered, by HTTP's status.")
# Seconds, not milliseconds: TorchServe's histograms have Prometheus's usual buckets, from 5 ms to 10 s.
STAGE = Metric(
    "segdeploy_stage_seconds", "histogram", "s", ("stage",), "Time of a picture in decode, forward, labels and encode."
)
PIXEL_SHARE = Metric(
    "segdeploy_pixel_share", "gauge", "share", ("class",), "Mean share of the pixels that a class has, of the last pictures."
)
CONFIDENCE = Metric(
    "segdeploy_confidence", "gauge", "share", (), "Mean probability of the labels, of pictures where it was asked for."
)
METRICS = (REQUESTS, STAGE, PIXEL_SHARE, CONFIDENCE)

# Takes a metric, a value and the values of its labels.
Observer: TypeAlias = Callable[[Metric, float, Mapping[str, str]], None]


def ignored(metric: Metric, value: float, labels: Mapping[str, str]) -> None:
    """An observer for who wants none."""
