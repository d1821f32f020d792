"""The exports of a suite, in a folder of their own: what lies there whole is not made again."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from segdeploy import __version__
from segdeploy.artifact.folder import Artifact, try_artifact
from segdeploy.base.errors import InputError, SegdeployError
from segdeploy.base.machine import local_gpu
from segdeploy.bench.result import BenchSettings
from segdeploy.bench.run import Candidate, Missing
from segdeploy.bench.variants import EAGER_VARIATIONS, Variant
from segdeploy.export.exporter import check_export, find_exporter
from segdeploy.export.options import Options
from segdeploy.images.label_png import encode_png
from segdeploy.models.random_weights import write_random_checkpoint
from segdeploy.runtime.backend import running_versions
from segdeploy.runtime.open import eager_artifact
from segdeploy.suite.plan import Recipe, Suite, find_suite, recipes

# Each export is a process of its own: one that runs out of memory costs its row.
COMMAND = (sys.executable, "-m", "segdeploy", "export")
_CALIBRATION_PICTURES = 4


@dataclass(frozen=True)
class Wanted:
    """What a suite is run with.

    Attributes:
        work: the folder of its exports.
        size: (H, W) of the network's input.
        batches: N to measure.
        gpu: whether there is one to run on.
        formats: to export to; none for all.
        data: a labelled data set for the precisions that need pictures; None for the one in the config.
    """

    work: Path
    size: tuple[int, int]
    batches: tuple[int, ...]
    gpu: bool
    formats: tuple[str, ...] = ()
    data: Path | None = None


def measured_suite(
    name: str,
    settings: BenchSettings,
    *,
    work: Path | None,
    checkpoint: Path | None,
    formats: tuple[str, ...],
    data: Path | None,
    say: Callable[[str], None],
) -> tuple[BenchSettings, list[Candidate]]:
    """The suite of a name on this machine: how it is measured, and what.

    Args:
        name: of the suite.
        settings: as they were asked for; sizes and batches are the suite's where none were.
        work: the folder of its exports; None for ``suites/NAME``.
        checkpoint: see ``make_suite``.
        formats: to export to; none for all.
        data: a labelled data set.
        say: told of every export.

    Raises:
        InputError: there is no such suite, or several sizes were asked for.
        BackendError: there is no such format.
    """
    suite = find_suite(name)
    for fmt in formats:
        find_exporter(fmt)
    sizes = settings.shapes or (suite.size,)
    if len(sizes) > 1:
        raise InputError(
            expected="one --shape with --suite", got=f"{len(sizes)}", fix="run the suite once for each, with --work"
        )
    gpu = settings.device != "cpu" and local_gpu() is not None
    asked = (settings.batch,) if isinstance(settings.batch, int) else settings.batch
    batches = asked or (suite.gpu_batches if gpu else suite.cpu_batches)
    wanted = Wanted(work or Path("suites") / name, sizes[0], batches, gpu, formats, data)
    return msgspec.structs.replace(settings, shapes=sizes, batch=batches), make_suite(suite, wanted, checkpoint, say)


def make_suite(
    suite: Suite, wanted: Wanted, checkpoint: Path | None, say: Callable[[str], None], command: Sequence[str] = COMMAND
) -> list[Candidate]:
    """Export what is not there yet; the rows of the table: eager in its ways, then the exports, and what could not be made.

    Args:
        suite: the model.
        wanted: what to make.
        checkpoint: of the model; None for random weights of the suite's config.
        say: told of every export.
        command: makes one export; given the target and the options of ``segdeploy export``.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        ConfigError: the suite's config cannot be built here.
        InputError: the folder cannot be written.
    """
    options: list[str] = []
    path = checkpoint
    if path is None:
        path = wanted.work / "random-weights.pth"
        write_random_checkpoint(suite.config, path)
        # Nobody can say what a lower precision costs a model that nobody trained: all of it is made in that precision.
        options = ["--calib", str(_pictures(wanted.work / "pictures")), "--max-miou-drop", "100"]
    elif wanted.data is not None:
        options = ["--data", str(wanted.data)]
    reference = eager_artifact(path)
    maker = _Maker(suite, wanted, reference, tuple(options), say, tuple(command))
    made: list[Artifact] = []
    missing: list[Candidate] = []
    for recipe in recipes(wanted.formats):
        found = maker.make(recipe)
        if isinstance(found, Missing):
            missing.append(found)
            continue
        made.append(found)
        if wanted.gpu and recipe.fmt == "onnx":
            made.append(Variant(found.folder, found.manifest, "cpu"))
    ways = [Variant(reference.folder, reference.manifest, way) for way in EAGER_VARIATIONS]
    return [reference, *ways, *made, *missing]


@dataclass(frozen=True)
class _Maker:
    """Makes the exports of one model."""

    suite: Suite
    wanted: Wanted
    reference: Artifact
    options: tuple[str, ...]
    say: Callable[[str], None]
    command: tuple[str, ...]

    def make(self, recipe: Recipe) -> Artifact | Missing:
        """The artifact, or why there is none."""
        name = recipe.name(self.suite.name)
        folder = self.wanted.work / name / f"{recipe.fmt}-{recipe.precision}"
        label = f"{name}/{folder.name}"
        words = self._words(recipe, name)
        stamp = folder.with_name(folder.name + ".made")
        # Of the same weights, by the same options and packages: else it is another export.
        asked = f"{self._sha256} {shlex.join(words)} {__version__} {running_versions()}"
        there = try_artifact(folder) if stamp.is_file() and stamp.read_text() == asked else None
        if isinstance(there, Artifact):
            self.say(f"there already: {label}")
            return there
        reason = self._refusal(recipe)
        if reason is None:
            self.say(f"exporting {label} ...")
            done = subprocess.run([*self.command, *words], capture_output=True, text=True, check=False)
            found = try_artifact(folder) if done.returncode == 0 else None
            if isinstance(found, Artifact):
                stamp.write_text(asked)
                return found
            reason = _why(done)
        self.say(f"not made: {label}: {reason}")
        return Missing(name, recipe.fmt, recipe.precision, self._sha256, reason)

    @property
    def _sha256(self) -> str | None:
        return self.reference.manifest.lineage.checkpoint_sha256

    def _words(self, recipe: Recipe, name: str) -> list[str]:
        height, width = self.wanted.size
        words = [str(self.reference.model_path), "--to", recipe.fmt, "--precision", recipe.precision, "--no-verify"]
        words += ["--shape", f"{height}x{width}", "--batch", _batch(self.wanted.batches)]
        words += ["--name", name, "--out", str(self.wanted.work)]
        words += ["--restructure" if recipe.restructured else "--no-restructure"]
        words += ["--target", "cuda"] if recipe.fmt == "pt2" and self.wanted.gpu else []
        return words + list(self.options if recipe.precision in {"fp16", "int8"} else ())

    @staticmethod
    def _refusal(recipe: Recipe) -> str | None:
        """Why this machine cannot make it, where that is known before any work."""
        try:
            check_export(recipe.fmt, Options(precision=recipe.precision))
        except SegdeployError as error:
            return " ".join(str(error).split())
        return None


def _batch(batches: Sequence[int]) -> str:
    least, most = min(batches), max(batches)
    return str(least) if least == most else f"{least}:{sorted(batches)[len(batches) // 2]}:{most}"


def _why(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    said = (errors or lines or ["nothing"])[-1]
    return said[:300] if errors else f"the export ended with exit status {done.returncode}; its last words: {said[:200]}"


def _pictures(folder: Path) -> Path:
    """Seeded pictures of coarse blobs, to measure ranges on where a model has no data set."""
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for index in range(_CALIBRATION_PICTURES):
        blobs = cv2.resize(random.integers(0, 256, (12, 12, 3), np.uint8), (512, 512), interpolation=cv2.INTER_CUBIC)
        (folder / f"{index}.png").write_bytes(encode_png(np.asarray(blobs, np.uint8)))
    return folder
