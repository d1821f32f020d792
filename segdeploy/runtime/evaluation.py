"""mIoU of any Session on labelled images: one loop for ``eval``, ``bench`` and the demo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from segdeploy.artifact.folder import Artifact
from segdeploy.base.errors import InputError
from segdeploy.base.progress import progress_bar
from segdeploy.images.arrays import Image, Labels
from segdeploy.images.dataset import Sample
from segdeploy.images.decode import MAX_PIXELS
from segdeploy.runtime.augment import Augmentation
from segdeploy.runtime.backend import running_versions
from segdeploy.runtime.open import Device, open_session
from segdeploy.runtime.pool import tally_in_processes
from segdeploy.runtime.session import Session
from segdeploy.runtime.tally import PLAIN, Problem, Tally, count_sample, empty_matrix, read_ahead
from segdeploy.scores.confusion_matrix import Evaluation
from segdeploy.scores.report import (
    EvaluationReport,
    Method,
    Unused,
    describe_data,
    describe_model,
    describe_running,
    make_report,
)


def evaluate(
    session: Session,
    samples: Sequence[Sample],
    *,
    label: str = "eval",
    seen: Callable[[Sample, Image, Labels], None] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Evaluation:
    """Predict every sample at its own size and score it as mmseg does.

    Args:
        session: the model.
        samples: images with labels.
        label: what to call the progress bar.
        seen: called with each sample, its image and its prediction (for pictures of them).
        max_pixels: of an image and of a label map; see ``decode_image``.

    Raises:
        InputError: an image or label map cannot be used; at the first one.
    """
    matrix = empty_matrix(session.artifact)
    with progress_bar(label, len(samples)) as advance:
        for sample, reading in read_ahead(samples, session.artifact.manifest, matrix, max_pixels):
            loaded = reading.result()
            prediction = count_sample(session, loaded, matrix)
            if seen is not None:
                seen(sample, loaded.image, prediction)
            advance()
    return matrix.evaluation(session.artifact.manifest.classes)


def evaluate_artifact(
    artifact: Artifact,
    samples: Sequence[Sample],
    *,
    root: Path,
    split: str,
    total: int,
    device: Device = "auto",
    threads: int | None = None,
    processes: int = 1,
    augmentation: Augmentation = PLAIN,
    max_pixels: int = MAX_PIXELS,
    command: str = "",
    counting: Callable[[], Tally] | None = None,
) -> EvaluationReport:
    """Evaluate a model and say everything that the scores depend on.

    Args:
        artifact: the model.
        samples: images with labels.
        root: the data set's folder.
        split: which part of it.
        total: how many images the split has.
        device: as ``tally`` takes it, and so the following.
        threads: likewise.
        processes: likewise.
        augmentation: likewise.
        max_pixels: likewise.
        command: what was typed.
        counting: counts in place of ``tally`` here, with the same options: on a cluster, say.

    Raises:
        BackendError: the model cannot run here, or a worker process was ended.
        ArtifactError: the artifact is bound to another machine.
    """
    started = datetime.now().astimezone()
    counted = (
        counting()
        if counting is not None
        else tally(
            artifact,
            samples,
            device=device,
            threads=threads,
            processes=processes,
            augmentation=augmentation,
            max_pixels=max_pixels,
        )
    )
    manifest = artifact.manifest
    return make_report(
        counted.matrix,
        manifest.classes,
        target=describe_model(artifact),
        data=describe_data(root, split, samples, total),
        method=Method(
            resize=manifest.preprocess.resize,
            inference=manifest.inference,
            scales=augmentation.scales,
            flip=augmentation.flip,
        ),
        running=describe_running(counted.device, threads, processes, running_versions()),
        unused=tuple(
            Unused(name=one.sample.name, expected=one.error.expected, got=one.error.got, fix=one.error.fix)
            for one in counted.problems
        ),
        command=command,
        started=started,
    )


def tally(
    artifact: Artifact,
    samples: Sequence[Sample],
    *,
    device: Device = "auto",
    threads: int | None = None,
    processes: int = 1,
    augmentation: Augmentation = PLAIN,
    max_pixels: int = MAX_PIXELS,
) -> Tally:
    """Open a model and count every sample; an image that cannot be used costs itself only.

    Args:
        artifact: the model.
        samples: images with labels.
        device: as ``open_session`` takes it; with several processes each opens the model there.
        threads: CPU threads in all; None for as many as this process may use.
        processes: how many share the samples.
        augmentation: test-time augmentation.
        max_pixels: of a picture and of a label map; see ``decode_image``.

    Raises:
        BackendError: the model cannot run here, or a worker process was ended.
        ArtifactError: the artifact is bound to another machine.
    """
    label = f"eval {artifact.name}"
    if processes > 1:
        return tally_in_processes(
            artifact,
            samples,
            device=device,
            threads=threads,
            processes=processes,
            augmentation=augmentation,
            max_pixels=max_pixels,
            label=label,
        )
    matrix, problems = empty_matrix(artifact), []
    with open_session(artifact, device, threads) as session, progress_bar(label, len(samples)) as advance:
        for sample, reading in read_ahead(samples, artifact.manifest, matrix, max_pixels):
            try:
                count_sample(session, reading.result(), matrix, augmentation)
            except InputError as error:
                problems.append(Problem(sample, error))
            advance()
        return Tally(matrix, tuple(problems), session.device)
