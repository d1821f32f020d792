"""Pictures and videos from disk to masks and overlays on disk; one that cannot be read never costs the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from segdeploy.artifact.manifest import Bounds
from segdeploy.base.errors import InputError, SegdeployError
from segdeploy.base.files import write_file
from segdeploy.base.folders import new_folder
from segdeploy.base.progress import progress_bar
from segdeploy.images.arrays import Image, Labels
from segdeploy.images.decode import IMAGE_SUFFIXES, MAX_PIXELS, read_image
from segdeploy.images.drawing import class_shares, overlay, with_legend
from segdeploy.images.label_png import encode_png, label_png
from segdeploy.images.palette import Colour
from segdeploy.runtime.predictor import predict_batch
from segdeploy.runtime.session import Session
from segdeploy.runtime.video import VIDEO_SUFFIXES, predict_video


@dataclass(frozen=True)
class Job:
    """One file to segment.

    Attributes:
        source: a picture or a video.
        place: where the results go, without their endings: ``OUT/sub/NAME``.
    """

    source: Path
    place: Path

    @property
    def is_video(self) -> bool:
        """By its suffix."""
        return self.source.suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True)
class Drawing:
    """What to write.

    Attributes:
        masks: label maps; of a video, a folder of them. None: of pictures only.
        overlays: colours over the picture.
        legend: below the overlay, the classes that occur.
        opacity: of the colours.
    """

    masks: bool | None = None
    overlays: bool = True
    legend: bool = True
    opacity: float = 0.5


class Predicted(msgspec.Struct, frozen=True):
    """What was found in one file.

    Attributes:
        source: the file.
        written: what was made of it.
        frames: 1 for a picture.
        shares: class -> share of the pixels.
        error: why there is nothing of it, or less than all; empty where all went well.
    """

    source: str
    written: tuple[str, ...]
    frames: int
    shares: dict[str, float]
    error: str = ""


@dataclass
class Outcome:
    """All that was done, and all that could not be.

    Attributes:
        done: a row a file of which something was written.
        failed: a row a file of which nothing was.
        problems: the errors, in order.
    """

    done: list[Predicted] = field(default_factory=list)
    failed: list[Predicted] = field(default_factory=list)
    problems: list[SegdeployError] = field(default_factory=list)

    def fail(self, jobs: Sequence[Job], error: SegdeployError) -> None:
        """Note files of which nothing could be written, for one reason."""
        self.problems.append(error)
        self.failed += [Predicted(str(job.source), (), 0, {}, str(error)) for job in jobs]


def find_jobs(paths: Sequence[Path], out: Path, *, recursive: bool = False) -> list[Job]:
    """The files named, and those in the folders named; a folder's structure is kept under ``out``.

    Raises:
        InputError: a folder holds none, or two files would be written to one place.
    """
    jobs: list[Job] = []
    for path in paths:
        if not path.is_dir():
            jobs.append(Job(path, out / path.stem))
            continue
        found = sorted(path.rglob("*") if recursive else path.iterdir())
        found = [one for one in found if one.is_file() and one.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES]
        if not found:
            raise InputError(
                expected=f"pictures or videos in '{path}'", got="none", fix="check the folder, or pass --recursive"
            )
        jobs += [Job(one, out / one.relative_to(path).parent / one.stem) for one in found]
    taken: dict[Path, Path] = {}
    for job in jobs:
        if job.place in taken:
            raise InputError(
                expected="files whose results have names of their own",
                got=f"'{taken[job.place]}' and '{job.source}', both '{job.place}_...'",
                fix="predict them into folders of their own",
            )
        taken[job.place] = job.source
    return jobs


def predict_files(
    session: Session, jobs: Sequence[Job], drawing: Drawing, *, batch: int = 1, max_pixels: int = MAX_PIXELS
) -> Outcome:
    """Segment every file.

    Args:
        session: any backend.
        jobs: what, and where to.
        drawing: what to write.
        batch: pictures of one size, or frames, at once; no more than the artifact takes.
        max_pixels: of a picture; see ``decode_image``.
    """
    artifact = session.artifact
    axis = artifact.manifest.input.shape[0]
    batch = min(batch, axis.max if isinstance(axis, Bounds) else axis)
    outcome = Outcome()
    pictures = [job for job in jobs if not job.is_video]
    if pictures:
        with progress_bar(f"predict {artifact.name}", len(pictures)) as advance:
            for read, images in _same_sized(pictures, batch, max_pixels, outcome):
                _pictures(session, read, images, drawing, outcome)
                advance(len(read))
    for job in jobs:
        if job.is_video:
            try:
                _video(session, job, drawing, batch, outcome)
            except SegdeployError as error:
                outcome.fail([job], error)
    return outcome


def _same_sized(jobs: Sequence[Job], batch: int, max_pixels: int, outcome: Outcome) -> Iterator[tuple[list[Job], list[Image]]]:
    """Neighbours of one size, at most ``batch`` of them; one that cannot be read stands alone, with no image."""
    group: list[Job] = []
    images: list[Image] = []
    for job in jobs:
        try:
            image = read_image(job.source, max_pixels=max_pixels)
        except SegdeployError as error:
            outcome.fail([job], error)
            yield [job], []
            continue
        if group and (len(group) == batch or image.shape != images[0].shape):
            yield group, images
            group, images = [], []
        group.append(job)
        images.append(image)
    if group:
        yield group, images


def _pictures(session: Session, jobs: Sequence[Job], images: Sequence[Image], drawing: Drawing, outcome: Outcome) -> None:
    if not images:
        return
    manifest = session.artifact.manifest
    try:
        predicted = predict_batch(session, images)
    except SegdeployError as error:
        outcome.fail(jobs, error)  # all of one size: what does not fit one fits none
        return
    for job, image, labels in zip(jobs, images, predicted, strict=True):
        outcome.done.append(write_picture(job, image, labels, drawing, classes=manifest.classes, palette=manifest.palette))


def write_picture(
    job: Job, image: Image, labels: Labels, drawing: Drawing, *, classes: Sequence[str], palette: Sequence[Colour]
) -> Predicted:
    """Write what was found in one picture.

    Args:
        job: where to.
        image: uint8 [H, W, 3] RGB.
        labels: [H, W].
        drawing: what to write.
        classes: names of the labels.
        palette: RGB a label.
    """
    shares = class_shares(labels, len(classes))
    written = []
    if drawing.masks is not False:
        written.append(job.place.with_name(job.place.name + "_mask.png"))
        write_file(written[-1], label_png(labels, palette))
    if drawing.overlays:
        picture = overlay(image, labels, palette, opacity=drawing.opacity)
        if drawing.legend:
            picture = with_legend(picture, classes, palette, shares)
        written.append(job.place.with_name(job.place.name + "_overlay.png"))
        write_file(written[-1], encode_png(picture))
    return _predicted(job, written, 1, shares, classes)


def _video(session: Session, job: Job, drawing: Drawing, batch: int, outcome: Outcome) -> None:
    manifest = session.artifact.manifest
    movie = job.place.with_name(job.place.name + "_overlay.mp4") if drawing.overlays else None
    written = [movie] if movie else []
    with ExitStack() as stack:
        folder = None
        if drawing.masks:
            written.append(job.place.with_name(job.place.name + "_masks"))
            folder = stack.enter_context(new_folder(written[-1], "masks of a video"))

        def keep(number: int, labels: object) -> None:
            if folder is not None:
                (folder / f"{number:06d}.png").write_bytes(label_png(labels, manifest.palette))  # type: ignore[arg-type]

        result = predict_video(
            session, job.source, movie, batch=batch, opacity=drawing.opacity, legend=drawing.legend, seen=keep
        )
    outcome.done.append(_predicted(job, written, result.frames, result.shares, manifest.classes))
    if result.promised is not None and result.frames < result.promised:
        outcome.problems.append(
            InputError(
                expected=f"{result.promised} frames in '{job.source}', as it says itself",
                got=f"{result.frames} that can be read",
                fix=f"'{written[0]}' holds those; copy the video again for the rest",
            )
        )


def _predicted(job: Job, written: Sequence[Path], frames: int, shares: dict[int, float], classes: Sequence[str]) -> Predicted:
    named = {classes[label]: share for label, share in shares.items()}
    return Predicted(str(job.source), tuple(map(str, written)), frames, named)
