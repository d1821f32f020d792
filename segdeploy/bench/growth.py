"""How cost grows: with pixels, with the batch, with classes, with the number of pictures, and with a picture cut into tiles.

Each point has a process of its own, so that its largest resident memory is its own; those of a curve take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import Literal, TypeAlias, get_args

import msgspec
import numpy as np

from segdeploy.artifact.axes import bounds
from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import Inference, Resize
from segdeploy.base.machine import compute_threads
from segdeploy.base.progress import progress_bar
from segdeploy.base.records import Struct
from segdeploy.bench.environment import load_average, read_environment
from segdeploy.bench.latency import interleave
from segdeploy.bench.process import NotRun, WorkerProcess
from segdeploy.bench.protocol import Timed
from segdeploy.bench.result import BenchSettings, Environment, Shape
from segdeploy.runtime.fitting import usual_stride

SCHEMA = 1
CurveName: TypeAlias = Literal["pixels", "batch", "classes", "images", "tiles"]
CURVES: tuple[CurveName, ...] = get_args(CurveName)

_SIDES = (128, 256, 512, 1024, 2048)
_BATCHES = (1, 2, 4, 8)
_IMAGES = (4, 8, 16, 32)
TILED_SIDES = (1024, 2048, 4096)
# The slope of a straight line through a few medians is uncertain by some hundredths; what grows with the square has 2.
_LINEAR = 1.1
TILES_LIMIT_BYTES = 2_000_000_000


class Point(Struct, frozen=True):
    """One size on a curve.

    Attributes:
        value: what cost is drawn against: pixels of a batch, images of it, classes, pictures, pixels of a picture.
        label: the size in words.
        ms: of each call, in the order in which they were measured.
        peak_rss_bytes: largest resident memory of the process; None where it cannot be read.
        reason: why it was not run, one line.
    """

    value: int
    label: str
    ms: tuple[float, ...] = ()
    peak_rss_bytes: int | None = None
    reason: str | None = None


class Curve(Struct, frozen=True):
    """Cost against one thing.

    Attributes:
        name: of the thing.
        model: whose.
        points: from the smallest.
    """

    name: CurveName
    model: str
    points: tuple[Point, ...]

    @property
    def exponent(self) -> float | None:
        """Of the power law through the medians, by least squares of the logarithms; None of fewer than two."""
        timed = [(point.value, float(np.median(point.ms))) for point in self.points if point.ms]
        if len({value for value, _ in timed}) < 2:
            return None
        x, y = np.log(np.array(timed)).T
        return float(np.polyfit(x, y, 1)[0])

    @property
    def verdict(self) -> str:
        """Whether it grows faster than what it is drawn against."""
        if self.exponent is None:
            return "not known"
        return "linear or better" if self.exponent <= _LINEAR else "worse than linear"


class GrowthReport(Struct, frozen=True):
    """The content of ``segdeploy bench --growth --json``.

    Attributes:
        schema: 1.
        started: when, ISO 8601 with the offset.
        command: what was typed.
        environment: where.
        threads: of the CPU.
        device: that was asked for.
        curves: those that the artifacts can be measured on.
    """

    schema: int
    started: str
    command: str
    environment: Environment
    threads: int
    device: str
    curves: tuple[Curve, ...]


def measure_growth(
    artifacts: Sequence[Artifact],
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,
    calls: int = 5,
    largest: int = 4096,
    names: Sequence[CurveName] = CURVES,
    command: str = "",
) -> GrowthReport:
    """Measure the curves of the first artifact, and classes across all of them.

    Args:
        artifacts: exported ones; sizes that the first does not take are left out.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads; None for all.
        calls: timed calls a point, of those that are one batch.
        largest: the largest side of a picture.
        names: of the curves to measure.
        command: what was typed, for the report.
    """
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    environment = read_environment()
    first = artifacts[0]
    settings = BenchSettings(
        iterations=calls, warmup=1, turn=1, min_time_s=0, max_time_s=3600, threads=threads or compute_threads(), device=device
    )
    (low_n, _, high_n), (low_h, opt_h, high_h), (low_w, opt_w, high_w) = map(bounds, first.manifest.input.shape[:3])
    sides = [side for side in _SIDES if max(low_h, low_w) <= side <= min(high_h, high_w, largest)]
    half = max(low_h, opt_h // 2), max(low_w, opt_w // 2)
    batches = [count for count in _BATCHES if low_n <= count <= high_n]
    pixels = [(first, (max(low_n, 1), side, side), max(low_n, 1) * side * side) for side in sides]
    by_batch = [(first, (count, *half), count) for count in batches]
    # One model a number of classes, all at the size of the first.
    models = {len(one.manifest.classes): one for one in reversed(artifacts)}
    classes = [(one, (max(low_n, 1), opt_h, opt_w), count) for count, one in sorted(models.items())]
    images = [(first, opt_h, opt_w, count, count) for count in _IMAGES]
    tiles = [(tiled(first), side, side, 1, side * side) for side in TILED_SIDES if side <= largest]
    batched: dict[CurveName, list[tuple[Artifact, Shape, int]]] = {"pixels": pixels, "batch": by_batch, "classes": classes}
    whole: dict[CurveName, list[tuple[Artifact, int, int, int, int]]] = {"images": images, "tiles": tiles}
    curves = [_batches(name, wanted, settings) for name, wanted in batched.items() if name in names]
    curves += [_pictures(name, sizes, settings) for name, sizes in whole.items() if name in names]
    load = msgspec.structs.replace(environment.load, after=load_average())
    return GrowthReport(
        schema=SCHEMA,
        started=started,
        command=command,
        environment=msgspec.structs.replace(environment, load=load),
        threads=settings.threads or 1,
        device=device,
        curves=tuple(curve for curve in curves if len(curve.points) > 1),
    )


def tiled(artifact: Artifact) -> Artifact:
    """The artifact on a picture of any size as it is, cut into overlapping windows of the size that it was optimised for."""
    manifest = artifact.manifest
    _, (_, opt_h, _), (_, opt_w, _) = map(bounds, manifest.input.shape[:3])
    slide = Inference(mode="slide", crop=(opt_h, opt_w), stride=usual_stride((opt_h, opt_w)))
    preprocess = msgspec.structs.replace(manifest.preprocess, resize=Resize(mode="none"), pad=None)
    return Artifact(artifact.folder, msgspec.structs.replace(manifest, inference=slide, preprocess=preprocess))


def _batches(name: CurveName, wanted: Sequence[tuple[Artifact, Shape, int]], settings: BenchSettings) -> Curve:
    """Points that are one batch each: all are open, and take turns."""
    points: dict[int, Point] = {}
    with ExitStack() as stack, progress_bar(f"growth with {name}", settings.iterations) as advance:
        ready = []
        for index, (artifact, shape, value) in enumerate(wanted):
            label = f"{len(artifact.manifest.classes)} classes" if name == "classes" else f"{shape[0]} x {shape[1]}x{shape[2]}"
            points[index] = Point(value, label)
            worker = stack.enter_context(WorkerProcess())
            try:
                worker.open(artifact, settings.device, settings.threads or 1)
                worker.prepare(shape, [], seed=settings.seed, warmup=settings.warmup)
            except NotRun as error:
                points[index] = Point(value, label, reason=str(error))
            else:
                ready.append((index, worker))
        series = interleave([worker for _, worker in ready], settings, advance) if ready else []
        for (index, _), one in zip(ready, series, strict=True):
            found = points[index]
            points[index] = (
                msgspec.structs.replace(found, reason=one.failure)
                if one.failure
                else msgspec.structs.replace(found, ms=tuple(one.run_ms), peak_rss_bytes=one.peak_rss_bytes)
            )
    return Curve(name, _model(wanted[0][0] if wanted else None), tuple(points.values()))


def _pictures(name: CurveName, wanted: Sequence[tuple[Artifact, int, int, int, int]], settings: BenchSettings) -> Curve:
    """Points that are whole pictures, to labels of their size: one process after the other, for they may be large."""
    points = []
    with progress_bar(f"growth with {name}", len(wanted)) as advance:
        for artifact, height, width, count, value in wanted:
            label = f"{count} pictures of {height}x{width}" if count > 1 else f"{height}x{width}"

            def measure(worker: WorkerProcess, size: tuple[int, int, int] = (count, height, width)) -> Timed:
                return worker.pictures(size, seed=settings.seed)

            points.append(_point(artifact, value, label, settings, measure))
            advance()
    return Curve(name, _model(wanted[0][0] if wanted else None), tuple(points))


def _point(
    artifact: Artifact, value: int, label: str, settings: BenchSettings, measure: Callable[[WorkerProcess], Timed]
) -> Point:
    with WorkerProcess() as worker:
        try:
            worker.open(artifact, settings.device, settings.threads or 1)
            timed = measure(worker)
        except NotRun as error:
            return Point(value, label, reason=str(error))
    return Point(value, label, timed.run_ms, timed.peak_rss_bytes)


def _model(artifact: Artifact | None) -> str:
    return artifact.name if artifact else ""
