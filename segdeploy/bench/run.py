"""The benchmark as a whole: the one function that ``segdeploy bench`` and the demo call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

import msgspec

from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import Axis, Bounds, Format, Precision
from segdeploy.artifact.verdict import DeviceKind
from segdeploy.base.machine import compute_threads
from segdeploy.base.progress import progress_bar
from segdeploy.bench.environment import OtherLoad, load_average, read_environment
from segdeploy.bench.latency import Series, interleave
from segdeploy.bench.peak import measure_peaks
from segdeploy.bench.process import NotRun, WorkerProcess
from segdeploy.bench.protocol import Evaluated, Opened, Timed
from segdeploy.bench.result import (
    SCHEMA,
    BenchReport,
    BenchRow,
    BenchSettings,
    DataSet,
    Environment,
    RowParity,
    Shape,
    Timing,
    row_parity,
)
from segdeploy.bench.variants import Variation, variation_of
from segdeploy.images.dataset import Sample

_KEPT_PREDICTIONS = 3
_NO_DATA = "no data set: pass --data DIR"

# Called with an artifact, and its first predictions as PNG label maps, in the order of the samples.
OnPredictions: TypeAlias = Callable[[Artifact, tuple[bytes, ...]], None]


@dataclass(frozen=True)
class Missing:
    """A backend that should have a row and cannot even be tried.

    Attributes:
        model: its model's name.
        backend: its format; unknown where its manifest cannot be read.
        precision: of its arithmetic.
        checkpoint_sha256: of the checkpoint that it would have come from.
        reason: why, one line.
        folder: where it lies; empty for a checkpoint that is not here.
        variation: how it would have been run; see ``bench.variants``.
    """

    model: str
    backend: Format | Literal["unknown"]
    precision: Precision
    checkpoint_sha256: str | None
    reason: str
    folder: str = ""
    variation: Variation | None = None


Candidate: TypeAlias = Artifact | Missing


@dataclass(frozen=True)
class _Job:
    candidate: Candidate
    shape: Shape | None


@dataclass(frozen=True)
class _Ready:
    """A worker that is open and warm."""

    index: int
    artifact: Artifact
    worker: WorkerProcess
    opened: Opened
    warmup: Timed


def bench(
    candidates: Sequence[Candidate],
    settings: BenchSettings,
    samples: Sequence[Sample] = (),
    *,
    data: str = "",
    no_data: str = _NO_DATA,
    command: str = "",
    on_predictions: OnPredictions | None = None,
) -> BenchReport:
    """Measure latency, memory and mIoU of several backends side by side, each in a process of its own.

    A backend that cannot run here, or fails on the way, becomes a row ``not run`` with the reason; the others go on.

    Args:
        candidates: artifacts, and what is missing; the reference (``eager_artifact``) is one of them like any other.
        settings: how to measure.
        samples: labelled images to evaluate on, and to fill the input batches with; none to time on seeded noise and
            leave mIoU out.
        data: what to call the data set in the report.
        no_data: why there are no samples, for the report.
        command: what was typed, for the report.
        on_predictions: given the first predictions of every artifact that was evaluated.
    """
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    threads = settings.threads or compute_threads()
    settings = msgspec.structs.replace(settings, threads=threads)
    environment = read_environment()
    peaks = measure_peaks(threads, settings.device) if settings.peak else ()
    chosen = list(samples[: settings.limit])
    rows: list[BenchRow] = []
    evaluated: dict[int, Evaluated | str] = {}
    other_cpus: list[float] = []
    jobs = _plan(candidates, settings)
    for shape in dict.fromkeys(job.shape for job in jobs):
        same = [job.candidate for job in jobs if job.shape == shape]
        group = _Group(same, shape, settings, chosen, no_data)
        rows += group.measure(evaluated, on_predictions)
        other_cpus += [group.other_cpus] if group.other_cpus is not None else []
    return BenchReport(
        schema=SCHEMA,
        started=started,
        command=command,
        environment=_with_load(environment, max(other_cpus, default=None)),
        settings=settings,
        data=DataSet(name=data, images=len(chosen), total=len(samples)) if samples else None,
        rows=tuple(rows),
        peaks=peaks,
    )


class _Group:
    """The candidates that are measured together, at one shape."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        shape: Shape | None,
        settings: BenchSettings,
        samples: Sequence[Sample],
        no_data: str,
    ) -> None:
        self._candidates = candidates
        self._shape = shape
        self._settings = settings
        self._samples = samples
        self._no_data = no_data
        self._failures: dict[int, str] = {}
        self.other_cpus: float | None = None

    def measure(self, evaluated: dict[int, Evaluated | str], on_predictions: OnPredictions | None) -> list[BenchRow]:
        """Time and evaluate; ``evaluated`` holds what earlier shapes have found, by the artifact's identity."""
        with ExitStack() as stack:
            ready = self._open_all(stack)
            series = self._time(ready)
            rows: dict[int, BenchRow] = {}
            for one, timed in zip(ready, series, strict=True):
                if timed.failure is not None:
                    self._failures[one.index] = timed.failure
                    continue
                if id(one.artifact) not in evaluated:
                    evaluated[id(one.artifact)] = self._evaluate(one, on_predictions)
                rows[one.index] = self._measured(one, timed, evaluated[id(one.artifact)])
        return [
            rows[index] if index in rows else self._not_run(candidate, self._failures[index])
            for index, candidate in enumerate(self._candidates)
        ]

    def _open_all(self, stack: ExitStack) -> list[_Ready]:
        ready: list[_Ready] = []
        with progress_bar("open and warm up", len(self._candidates)) as advance:
            for index, candidate in enumerate(self._candidates):
                if isinstance(candidate, Missing):
                    self._failures[index] = candidate.reason
                else:
                    try:
                        with ExitStack() as inner:
                            ready.append(self._open(index, candidate, inner.enter_context(WorkerProcess())))
                            stack.push(inner.pop_all())
                    except NotRun as error:
                        self._failures[index] = str(error)
                advance(note=_label(candidate))
        return ready

    def _open(self, index: int, artifact: Artifact, worker: WorkerProcess) -> _Ready:
        assert self._settings.threads is not None
        assert self._shape is not None
        opened = worker.open(artifact, self._settings.device, self._settings.threads, self._settings.max_pixels)
        images = [str(sample.image) for sample in self._samples[: self._shape[0]]]
        warmup = worker.prepare(self._shape, images, seed=self._settings.seed, warmup=self._settings.warmup)
        return _Ready(index, artifact, worker, opened, warmup)

    def _time(self, ready: Sequence[_Ready]) -> list[Series]:
        if not ready:
            return []
        assert self._shape is not None
        count, height, width = self._shape
        with progress_bar(f"time {count} x {height}x{width}", self._settings.iterations) as advance:
            other = OtherLoad([one.worker.pid for one in ready])
            series = interleave([one.worker for one in ready], self._settings, advance)
            self.other_cpus = other.cpus()
        return series

    def _evaluate(self, one: _Ready, on_predictions: OnPredictions | None) -> Evaluated | str:
        if one.artifact.manifest.lineage.random_weights:
            return "the weights are random"
        if not self._samples:
            return self._no_data
        keep = _KEPT_PREDICTIONS if on_predictions else 0
        try:
            with progress_bar(f"mIoU {_label(one.artifact)}", len(self._samples)) as advance:
                result = one.worker.evaluate(self._samples, keep=keep, advance=advance)
        except NotRun as error:
            return str(error)
        if on_predictions is not None:
            on_predictions(one.artifact, result.predictions)
        return result

    def _gmac(self, one: _Ready) -> float | None:
        if not self._settings.peak or one.artifact.manifest.format != "eager" or variation_of(one.artifact):
            return None
        try:
            return one.worker.count()
        except NotRun:
            return None

    def _measured(self, one: _Ready, series: Series, evaluated: Evaluated | str) -> BenchRow:
        manifest = one.artifact.manifest
        evaluation = None if isinstance(evaluated, str) else evaluated.evaluation
        note = evaluated if isinstance(evaluated, str) else "no labelled pixel in the data set"
        return BenchRow(
            model=manifest.name,
            backend=manifest.format,
            precision=manifest.precision,
            folder=str(one.artifact.folder),
            checkpoint_sha256=manifest.lineage.checkpoint_sha256,
            shape=self._shape,
            status="measured",
            parity=_parity(one.artifact, "cuda" if one.opened.device.startswith("cuda") else "cpu"),
            device=one.opened.device,
            timing=Timing(
                load_ms=one.opened.load_ms,
                run_ms=tuple(series.run_ms),
                execute_ms=tuple(series.execute_ms),
                warmup_run_ms=(*one.warmup.warmup_run_ms, *series.warmup_run_ms),
                warmup_execute_ms=(*one.warmup.warmup_execute_ms, *series.warmup_execute_ms),
                peak_rss_bytes=series.peak_rss_bytes,
            ),
            size_bytes=sum(entry.bytes for entry in manifest.files),
            evaluation=evaluation,
            evaluation_note=None if evaluation else note,
            random_weights=manifest.lineage.random_weights,
            variation=variation_of(one.artifact),
            gmac=self._gmac(one),
        )

    def _not_run(self, candidate: Candidate, reason: str) -> BenchRow:
        if isinstance(candidate, Missing):
            return BenchRow(
                model=candidate.model,
                backend=candidate.backend,
                precision=candidate.precision,
                folder=candidate.folder,
                checkpoint_sha256=candidate.checkpoint_sha256,
                shape=self._shape,
                status="not run",
                reason=reason,
                parity="reference" if candidate.backend == "eager" and not candidate.variation else "not verified",
                variation=candidate.variation,
            )
        manifest = candidate.manifest
        return BenchRow(
            model=manifest.name,
            backend=manifest.format,
            precision=manifest.precision,
            folder=str(candidate.folder),
            checkpoint_sha256=manifest.lineage.checkpoint_sha256,
            shape=self._shape,
            status="not run",
            reason=reason,
            parity=_parity(candidate),
            variation=variation_of(candidate),
        )


def _plan(candidates: Sequence[Candidate], settings: BenchSettings) -> list[_Job]:
    """Which candidate at which shapes: those asked for, else each artifact's own, and eager at all of its artifacts'."""
    own = {index: _own_shapes(one, settings) for index, one in enumerate(candidates) if isinstance(one, Artifact)}
    jobs = []
    for index, candidate in enumerate(candidates):
        shapes: list[Shape | None] = list(own.get(index, ()))
        if not settings.shapes and _format(candidate) == "eager":
            others = [
                shape
                for i, one in enumerate(candidates)
                if _format(one) != "eager" and _checkpoint(one) == _checkpoint(candidate)
                for shape in own.get(i, ())
            ]
            shapes = list(dict.fromkeys(others)) or shapes
        jobs += [_Job(candidate, shape) for shape in shapes or [None]]
    return jobs


def _own_shapes(artifact: Artifact, settings: BenchSettings) -> list[Shape]:
    batch, height, width = (_best(axis) for axis in artifact.manifest.input.shape[:3])
    sizes = settings.shapes or ((height, width),)
    batches = (settings.batch,) if isinstance(settings.batch, int) else settings.batch or (batch,)
    return [(count, *size) for count in batches for size in sizes]


def _best(axis: Axis) -> int:
    return axis.opt if isinstance(axis, Bounds) else axis


def _format(candidate: Candidate) -> Format | Literal["unknown"]:
    return candidate.backend if isinstance(candidate, Missing) else candidate.manifest.format


def _checkpoint(candidate: Candidate) -> str | None:
    if isinstance(candidate, Missing):
        return candidate.checkpoint_sha256
    return candidate.manifest.lineage.checkpoint_sha256


def _label(candidate: Candidate) -> str:
    label = "eager" if _format(candidate) == "eager" or isinstance(candidate, Missing) else candidate.manifest.label
    variation = variation_of(candidate)
    return f"{label}-{variation}" if variation else label


def _parity(artifact: Artifact, device: DeviceKind | None = None) -> RowParity:
    """What the manifest says; nothing of the checkpoint run in another way than mmseg's."""
    eager = artifact.manifest.format == "eager"
    return "not verified" if eager and variation_of(artifact) else row_parity(artifact, device)


def _with_load(environment: Environment, other_cpus: float | None) -> Environment:
    load = msgspec.structs.replace(environment.load, after=load_average(), other_cpus=other_cpus)
    return msgspec.structs.replace(environment, load=load)
