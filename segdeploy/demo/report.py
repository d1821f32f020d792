"""The demo's report: JSON is the source, the page is a view of it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from segdeploy.artifact.verdict import Parity
from segdeploy.bench.html import Section, render_html
from segdeploy.bench.result import BenchReport
from segdeploy.demo.journal import StageRecord
from segdeploy.demo.stages import FORMATS, LEAST_MIOU, TRAIN_IMAGES, VAL_IMAGES, Places, Served, Trained

SCHEMA = 1


class StageTime(msgspec.Struct, frozen=True):
    """How long a stage took, in seconds on the wall clock, in the run that did it."""

    name: str
    seconds: float


class DemoReport(msgspec.Struct, frozen=True):
    """Everything that the demo found; the content of ``report.json``."""

    schema: int
    stages: tuple[StageTime, ...]
    trained: Trained
    parity: dict[str, Parity]
    bench: BenchReport
    served: Served


def stage_times(records: list[StageRecord]) -> tuple[StageTime, ...]:
    """Of every stage."""
    return tuple(StageTime(record.name, record.seconds) for record in records)


def problems(report: DemoReport) -> list[str]:
    """What the demo promises and did not keep; empty where all is well. What could not run here is not among them."""
    found = []
    if report.trained.evaluation.miou < LEAST_MIOU:
        found.append(f"val mIoU {report.trained.evaluation.miou:.2f}, less than {LEAST_MIOU:.0f}")
    found += [f"{fmt} differs from the checkpoint" for fmt, parity in report.parity.items() if parity.verdict == "failed"]
    if report.served.identical != report.served.images:
        found.append(f"{report.served.images - report.served.identical} served masks differ")
    return found


def write_report(places: Places, report: DemoReport) -> Path:
    """Write ``report.json`` and ``report.html``; the page's path."""
    from segdeploy.artifact.folder import open_artifact
    from segdeploy.base.files import write_file
    from segdeploy.bench.pictures import PictureCollector
    from segdeploy.images.dataset import find_samples
    from segdeploy.runtime.open import eager_artifact

    collector = PictureCollector(find_samples(places.data, "val"))
    for artifact in [eager_artifact(Path(report.trained.checkpoint)), *map(open_artifact, map(places.artifact, FORMATS))]:
        pngs = [path.read_bytes() for path in sorted(places.pictures.glob(f"{artifact.manifest.label}-*.png"))]
        if pngs:
            collector(artifact, tuple(pngs))
    write_file(places.root / "report.json", msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    page = render_html(
        report.bench, pictures=collector.pictures(report.bench), sections=_sections(report), title="segdeploy demo"
    )
    write_file(places.root / "report.html", page)
    return places.root / "report.html"


def parity_rows(report: DemoReport) -> list[tuple[str, ...]]:
    """One row an export: verdict, shapes, the worst figures."""
    rows: list[tuple[str, ...]] = []
    for fmt, parity in report.parity.items():
        if not parity.shapes:
            rows.append((fmt, parity.verdict, "-", "-", "-"))
            continue
        worst = max(parity.shapes, key=lambda one: one.logits.max_abs)
        agreement = min(one.masks.agreement for one in parity.shapes)
        rows.append((fmt, parity.verdict, str(len(parity.shapes)), f"{worst.logits.max_abs:.1e}", f"{100 * agreement:.4f} %"))
    return rows


def _sections(report: DemoReport) -> tuple[Section, ...]:

    evaluation, served = report.trained.evaluation, report.served
    training = (
        f"UPerNet with a ResNet-18 of half width, trained from scratch on {TRAIN_IMAGES} synthetic images: "
        f"mIoU {evaluation.miou:.2f} on {VAL_IMAGES} others."
    )
    parity = (
        "Each export and the original, run by mmseg itself, on the same validation images, at several sizes and batches, "
        "from one artifact each."
    )
    serving = (
        f"TorchServe on 127.0.0.1 answered {served.images} images; {served.identical} of the masks are identical, pixel for "
        f"pixel, to those of the same artifact in this process ({served.pixels_differ} pixels differ)."
    )
    reasons = tuple(f"{fmt}: {parity.reason}." for fmt, parity in report.parity.items() if parity.reason)
    return (
        Section("Training", (training,)),
        Section(
            "Parity with the checkpoint",
            (parity, *reasons),
            ("export", "verdict", "shapes", "largest logit error", "mask agreement"),
            tuple(parity_rows(report)),
        ),
        Section("Serving", (serving,)),
        Section(
            "Time by stage",
            (),
            ("stage", "seconds"),
            tuple((stage.name, f"{stage.seconds:.1f}") for stage in report.stages),
        ),
    )
