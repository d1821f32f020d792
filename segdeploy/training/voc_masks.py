"""``SegmentationClassAug``: every label map of VOC and SBD in one folder, made by several processes.

VOC's own label maps (with void) for VOC's train and val images, SBD's for the rest. So ``trainaug.txt`` and ``val.txt`` can be
read with this folder alone, and ``aug.txt`` with it beside ``train.txt`` with ``SegmentationClass``, as mmseg's config does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from segdeploy.base.errors import InputError
from segdeploy.base.files import write_file
from segdeploy.base.progress import track
from segdeploy.images.label_png import label_png
from segdeploy.images.palette import distinct_palette
from segdeploy.training.processes import map_in_processes
from segdeploy.training.sbd import CLASSES, read_sbd_mask

_CHUNK = 64
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"

FaultKind = Literal["image", "label", "mat", "size", "write"]


@dataclass(frozen=True)
class Folders:
    """Where things are.

    Attributes:
        voc: ``VOCdevkit/VOC2012``.
        sbd: ``benchmark_RELEASE/dataset``.
    """

    voc: Path
    sbd: Path

    def image(self, name: str) -> Path:
        """Of VOC or SBD: mmseg reads all from here."""
        return self.voc / "JPEGImages" / f"{name}.jpg"

    def own_label(self, name: str) -> Path:
        """VOC's own label map."""
        return self.voc / "SegmentationClass" / f"{name}.png"

    def label(self, name: str) -> Path:
        """The label map that is made here."""
        return self.voc / "SegmentationClassAug" / f"{name}.png"


@dataclass(frozen=True)
class Job:
    """One label map to make.

    Attributes:
        name: of the image.
        own: it is VOC's own; else SBD's.
    """

    name: str
    own: bool


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Attributes:
        name: of the image.
        image_copied: from SBD, because VOC's folder lacked it.
        fault: what is wrong, and then nothing was written; None if the label map is there.
        detail: of the fault, a few words.
    """

    name: str
    image_copied: bool = False
    fault: FaultKind | None = None
    detail: str = ""


def make_labels(jobs: Sequence[Job], folders: Folders, workers: int) -> list[Outcome]:
    """Do all jobs; one that fails stops none of the others. What lies there whole already is kept.

    Args:
        jobs: one a name.
        folders: where to read and write.
        workers: processes, at most.

    Returns:
        One outcome a job, in their order.

    Raises:
        InputError: the folder cannot be written, or a process was killed.
    """
    place = folders.label("x").parent
    try:
        place.mkdir(exist_ok=True)
        for folder in (place, folders.image("x").parent):
            for rest in folder.glob(".*.???.????????"):  # temporary files of a run that was killed
                rest.unlink()
    except OSError as error:
        raise InputError(
            expected=f"a folder that can be written at '{place}'", got=str(error.strerror), fix="change its permissions"
        ) from error
    results = map_in_processes(partial(make_label, folders=folders), jobs, workers=workers, chunk=_CHUNK)
    return list(track(results, "label maps", len(jobs)))


def make_label(job: Job, folders: Folders) -> Outcome:
    """Do one job; its file appears whole or not at all."""
    copied = False
    try:
        copied = _complete_image(job.name, folders)
        size = _image_size(folders.image(job.name))
        if job.own:
            _copy_label(job.name, folders, size)
        else:
            _convert_label(job.name, folders, size)
    except _Fault as fault:
        return Outcome(job.name, copied, fault.kind, fault.detail)
    except InputError as error:  # what writing raises
        return Outcome(job.name, copied, "write", error.got)
    return Outcome(job.name, copied)


class _Fault(Exception):  # noqa: N818  of the data, not of the program
    def __init__(self, kind: FaultKind, detail: str) -> None:
        self.kind = kind
        self.detail = detail
        super().__init__(detail)


def _complete_image(name: str, folders: Folders) -> bool:
    """Take SBD's copy of the image where VOC's folder has none. Returns whether it did."""
    image = folders.image(name)
    if image.is_file():
        return False
    spare = folders.sbd / "img" / image.name
    if not spare.is_file():
        raise _Fault("image", "missing")
    write_file(image, spare.read_bytes())
    return True


def _convert_label(name: str, folders: Folders, size: tuple[int, int]) -> None:
    place = folders.label(name)
    if place.is_file() and _png_size(place.read_bytes()) == size:
        return
    try:
        mask = read_sbd_mask(folders.sbd / "cls" / f"{name}.mat")
    except InputError as error:
        raise _Fault("mat", error.got) from error
    _check_size(mask.shape[::-1], size)
    write_file(place, label_png(mask, distinct_palette(CLASSES), fast=True))


def _copy_label(name: str, folders: Folders, size: tuple[int, int]) -> None:
    source, place = folders.own_label(name), folders.label(name)
    try:
        data = source.read_bytes()
    except OSError as error:
        raise _Fault("label", str(error.strerror).lower()) from error
    found = _png_size(data)
    if found is None:
        raise _Fault("label", "no whole PNG")
    _check_size(found, size)
    # The other scripts that fill this folder put SBD's label maps here: without void, and drawn by others.
    if not place.is_file() or place.read_bytes() != data:
        write_file(place, data)


def _check_size(mask: tuple[int, ...], image: tuple[int, int]) -> None:
    if mask != image:
        raise _Fault("size", f"{mask[0]}x{mask[1]}, its image {image[0]}x{image[1]}")


def _image_size(path: Path) -> tuple[int, int]:
    """(width, height), from the header alone."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.size
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's plugins raise these on damaged files
        raise _Fault("image", str(error)) from error


def _png_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a PNG that has its beginning and its end; None of anything else."""
    if not data.startswith(_PNG_START) or not data.endswith(_PNG_END):
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
