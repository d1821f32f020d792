"""What a benchmark run leaves: raw values, never only means. Schema 1.

Statistics are computed from these values in ``stats.py``; nothing derived is stored, so that nothing can disagree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import Format, Precision
from segdeploy.artifact.verdict import DeviceKind, Verdict
from segdeploy.base.errors import InputError
from segdeploy.base.records import Struct, decode_record
from segdeploy.images.decode import MAX_PIXELS
from segdeploy.scores.confusion_matrix import Evaluation

SCHEMA = 1

Status: TypeAlias = Literal["measured", "not run"]
Shape: TypeAlias = tuple[int, int, int]  # (N, H, W) of the network's input
PeakPrecision: TypeAlias = Literal["fp32", "tf32", "fp16", "bf16", "int8"]
RowParity: TypeAlias = Verdict | Literal["not verified", "reference"]


class BenchSettings(Struct, frozen=True):
    """How to measure. Each round is one turn of every backend.

    Attributes:
        shapes: (H, W) of the network's input; empty for the size that each artifact was optimised for.
        batch: N, or several; None for the batch that each artifact was optimised for.
        iterations: timed calls a backend, of ``run`` and of ``execute`` each.
        warmup: calls before the first round; their times are kept apart.
        turn: timed calls of each kind in one turn, before the next backend has its own; a few that do not count come first.
        min_time_s: go on beyond ``iterations`` until every backend was timed for so long.
        max_time_s: start no further round of a shape after so long, even before ``iterations`` are done.
        threads: CPU threads; None for as many as the process may use.
        device: ``auto``, ``cpu`` or ``cuda``.
        limit: evaluate the first images of the split only; None for all of it.
        seed: of the random image that is used where there is no data.
        peak: time large products and convolutions too, and count the multiplications of the model.
        max_pixels: of a picture and of a label map; see ``decode_image``.
    """

    shapes: tuple[tuple[int, int], ...] = ()
    batch: int | tuple[int, ...] | None = None
    iterations: int = 100
    warmup: int = 5
    turn: int = 10
    min_time_s: float = 1.0
    max_time_s: float = 60.0
    threads: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    limit: int | None = None
    seed: int = 0
    peak: bool = False
    max_pixels: int = MAX_PIXELS


class DataSet(Struct, frozen=True):
    """What mIoU was measured on.

    Attributes:
        name: its folder and split.
        images: how many images were evaluated.
        total: how many the split has.
    """

    name: str
    images: int
    total: int


class Load(Struct, frozen=True):
    """What else the machine did; None where the system does not tell.

    Attributes:
        before: its load average over one minute, before the run.
        after: the same, after it.
        other_cpus: how many CPUs other programs (and other guests of the host) kept busy while latencies were taken; the
            largest of all shapes.
        cpus: how many CPUs the machine has, of which this process may use some.
    """

    before: float | None
    after: float | None
    other_cpus: float | None
    cpus: int | None


class Environment(Struct, frozen=True):
    """Where it was measured; None where it cannot be known.

    Attributes:
        cpu: its model.
        cpus: how many this process may use.
        memory_bytes: of the machine.
        governor: the CPU's frequency policy.
        gpus: name, memory and driver of each GPU.
        os: name and release.
        python: version.
        packages: version of each package that has a part in it.
        load: what else it did.
    """

    cpu: str
    cpus: int
    memory_bytes: int | None
    governor: str | None
    gpus: tuple[str, ...]
    os: str
    python: str
    packages: dict[str, str]
    load: Load


class Peak(Struct, frozen=True):
    """The fastest of a square matrix product and convolutions, as large as shows what the machine can do.

    Attributes:
        precision: of its factors.
        device: where.
        runtime: whose it is, with the version.
        gmac: 10^9 multiplications of one.
        run_ms: of each call, without those to warm up.
        reason: why it was not timed, one line.
    """

    precision: PeakPrecision
    device: DeviceKind
    runtime: str
    gmac: float
    run_ms: tuple[float, ...]
    reason: str | None = None


class Timing(Struct, frozen=True):
    """Raw values of one backend, in the order in which they were measured.

    Attributes:
        load_ms: from a started Python to an open session, the import of the backend's packages included.
        run_ms: latencies of ``Session.run``: uint8 images on the host to masks on the host.
        execute_ms: latencies of ``Session.execute``: the network alone, on a batch that is on the device.
        warmup_run_ms: calls before the first round and at the head of each turn; not part of any statistic.
        warmup_execute_ms: likewise.
        peak_rss_bytes: largest resident memory of the worker process, loading included; None where it cannot be read.
    """

    load_ms: float
    run_ms: tuple[float, ...]
    execute_ms: tuple[float, ...]
    warmup_run_ms: tuple[float, ...]
    warmup_execute_ms: tuple[float, ...]
    peak_rss_bytes: int | None


class BenchRow(Struct, frozen=True):
    """One backend at one input shape.

    Attributes:
        model: the artifact's name.
        backend: its format; unknown where its manifest could not be read.
        precision: of its arithmetic.
        folder: where it lies.
        checkpoint_sha256: what it was exported from; rows of one checkpoint are compared with its eager row.
        shape: (N, H, W); None where it is not known because the row was not run.
        status: ``not run`` rows hold no figure.
        reason: why it was not run, one line.
        device: where it really ran.
        timing: the raw values.
        size_bytes: of all model files (a checkpoint's may hold the optimiser's state too).
        parity: the verdict in the manifest; ``not verified`` where it has none; ``reference`` for eager itself.
        evaluation: mIoU; one measurement an artifact, repeated in its rows of other shapes.
        evaluation_note: why there is no evaluation.
        random_weights: nobody trained the model; its latency counts, its mIoU is not measured.
        variation: another way to run it than its backend's usual one; see ``bench.variants``.
        gmac: 10^9 multiplications in the convolutions and matrix products of one batch, of the checkpoint's own row alone:
            the model's work, whatever an export makes of it. None where it was not counted.
    """

    model: str
    backend: Format | Literal["unknown"]
    precision: Precision
    folder: str
    checkpoint_sha256: str | None
    shape: Shape | None
    status: Status
    parity: RowParity
    reason: str | None = None
    device: str | None = None
    timing: Timing | None = None
    size_bytes: int | None = None
    evaluation: Evaluation | None = None
    evaluation_note: str | None = None
    random_weights: bool = False
    variation: str | None = None
    gmac: float | None = None

    def __post_init__(self) -> None:
        figures = (self.timing, self.size_bytes, self.evaluation, self.device)
        if self.status == "not run":
            if not self.reason or "\n" in self.reason:
                raise ValueError("a row that was not run needs a reason of one line")
            if any(figure is not None for figure in figures):
                raise ValueError("a row that was not run cannot hold figures")
        elif self.timing is None or not self.timing.run_ms or self.shape is None or self.reason is not None:
            raise ValueError("a measured row needs a shape and timings, and no reason")

    @property
    def label(self) -> str:
        """Format and precision, as in ``onnx-fp32``, and the variation; the checkpoint's own row is ``eager``."""
        label = self.backend if self.backend in ("eager", "unknown") else f"{self.backend}-{self.precision}"
        return f"{label}-{self.variation}" if self.variation else label


class BenchReport(Struct, frozen=True):
    """One run of the benchmark; the content of ``bench.json``.

    Attributes:
        schema: 1.
        started: when, ISO 8601 with the offset.
        command: what was typed, empty where it was started from Python.
        environment: where.
        settings: how.
        data: what mIoU was measured on; None where it was not.
        rows: the backends.
        peaks: what the machine can do at most; none where that was not asked for.
    """

    schema: int
    started: str
    command: str
    environment: Environment
    settings: BenchSettings
    data: DataSet | None
    rows: tuple[BenchRow, ...]
    peaks: tuple[Peak, ...] = ()


def row_parity(artifact: Artifact, device: DeviceKind | None = None) -> RowParity:
    """What the manifest says of the artifact's parity on the kind of device that it was measured on; None for any."""
    if artifact.manifest.format == "eager":
        return "reference"
    counting = artifact.manifest.verdict(device)
    return counting.verdict if counting else "not verified"


def encode_report(report: BenchReport) -> bytes:
    """The report as indented JSON with a final newline."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def read_report(path: Path) -> BenchReport:
    """Read what ``segdeploy bench --json`` wrote.

    Raises:
        InputError: it is missing, of another schema, or not valid; names the field.
    """
    again = "make it again with: segdeploy bench --json FILE"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(expected=f"a report at '{path}'", got=str(error.strerror).lower(), fix="check the path") from error
    return decode_record(data, BenchReport, schema=SCHEMA, what="report", source=str(path), again=again, error=InputError)


def disagreements(old: BenchReport, new: BenchReport) -> tuple[str, ...]:
    """What differs between two runs so that their latencies cannot be compared; empty where they can.

    Package versions may differ: they are what a comparison is often about.
    """
    return tuple(
        f"{name}: {before} and {after}"
        for (name, before), (_, after) in zip(_must_agree(old), _must_agree(new), strict=True)
        if before != after
    )


def _must_agree(report: BenchReport) -> list[tuple[str, str]]:
    environment, settings = report.environment, report.settings
    return [
        ("CPU", environment.cpu),
        ("usable CPUs", str(environment.cpus)),
        ("governor", str(environment.governor)),
        ("GPUs", ", ".join(environment.gpus) or "none"),
        ("threads", str(settings.threads)),
        ("device", settings.device),
    ]
