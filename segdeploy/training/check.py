"""What is wrong with a data set: all of it, not the first thing only."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import msgspec
import numpy as np

from segdeploy.core.dataset import read_label
from segdeploy.core.errors import InputError
from segdeploy.core.progress import progress_bar
from segdeploy.training.splits import Dataset, Pair, Split

_EXAMPLES = 5
_MOST_LABELS = 256
_CHUNK = 16
Severity: TypeAlias = Literal["fault", "note"]

# What can be found, in the order in which it is told. A note is worth a look and stops nobody.
KINDS: dict[str, Severity] = {
    "no image listed": "fault",
    "listed twice": "fault",
    "image missing": "fault",
    "label map missing": "fault",
    "image cannot be read": "fault",
    "label map cannot be read": "fault",
    "label map is a colour picture": "fault",
    "sizes differ": "fault",
    "label out of range": "fault",
    "in two splits": "fault",
    "same picture in two splits": "fault",
    "label map of no image": "note",
    "nothing but void": "note",
    "class never occurs": "note",
}


class Finding(msgspec.Struct, frozen=True):
    """One kind of thing that is wrong.

    Attributes:
        kind: see ``KINDS``.
        severity: a fault, or a note.
        count: how often.
        examples: the first few.
    """

    kind: str
    severity: Severity
    count: int
    examples: tuple[str, ...]


class SplitReport(msgspec.Struct, frozen=True):
    """One part of the data set.

    Attributes:
        name: of the split.
        images: how many are listed.
        pixels: of each label; void is the last.
        images_with: in how many images each label occurs.
    """

    name: str
    images: int
    pixels: tuple[int, ...]
    images_with: tuple[int, ...]


class CheckReport(msgspec.Struct, frozen=True):
    """Everything that was found.

    Attributes:
        classes: names; ``label N`` where nothing says them.
        classes_are_guessed: True where their number is that of the labels that occur.
        splits: each.
        findings: faults first.
    """

    classes: tuple[str, ...]
    classes_are_guessed: bool
    splits: tuple[SplitReport, ...]
    findings: tuple[Finding, ...]

    @property
    def faults(self) -> int:
        """How many things are wrong."""
        return sum(finding.count for finding in self.findings if finding.severity == "fault")


@dataclass(frozen=True)
class _Seen:
    """What one pair holds: findings as (kind, text), pixels of each label, and a hash of the image's file."""

    findings: tuple[tuple[str, str], ...]
    pixels: tuple[int, ...] = ()
    digest: str = ""


def check(dataset: Dataset, *, classes: int | None = None, workers: int | None = None) -> CheckReport:
    """Read every image and label map, and compare the splits.

    Args:
        dataset: what to check; see ``segdeploy.training.splits``.
        classes: how many there are, in place of what the data set says.
        workers: processes; as many as usable CPUs by default.

    Returns:
        The report; nothing is raised for what is wrong with the data.
    """
    found: defaultdict[str, list[str]] = defaultdict(list)
    names = _names(dataset, classes)
    read = partial(_look, reduce_zero_label=dataset.reduce_zero_label)
    counts: dict[str, list[tuple[int, ...]]] = {}
    places: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)  # hash -> (split, name)
    total = sum(len(split.pairs) for split in dataset.splits)
    with progress_bar("check", total) as advance, ProcessPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        for split in dataset.splits:
            _check_list(split, found)
            counts[split.name] = []
            for pair, seen in zip(split.pairs, pool.map(read, split.pairs, chunksize=_CHUNK), strict=True):
                for kind, text in seen.findings:
                    found[kind].append(text)
                if seen.pixels:
                    counts[split.name].append(seen.pixels)
                    _check_labels(pair, seen.pixels, names, dataset.ignore_index, found)
                if seen.digest:
                    places[seen.digest].append((split.name, pair.name))
                advance()
    _check_leaks(dataset.splits, places, found)
    guessed = not names
    names = names or tuple(f"label {index}" for index in range(_labels_that_occur(counts.values(), dataset.ignore_index)))
    reports = tuple(_report(split, counts[split.name], len(names), dataset.ignore_index) for split in dataset.splits)
    _check_classes(reports, names, found)
    findings = tuple(
        Finding(kind, severity, len(found[kind]), tuple(found[kind][:_EXAMPLES]))
        for kind, severity in KINDS.items()
        if found[kind]
    )
    return CheckReport(names, guessed, reports, findings)


def _names(dataset: Dataset, classes: int | None) -> tuple[str, ...]:
    if classes is None or classes == len(dataset.classes):
        return dataset.classes
    return tuple(f"label {index}" for index in range(classes))


def _look(pair: Pair, *, reduce_zero_label: bool) -> _Seen:
    """Read one pair; runs in a worker process."""
    findings: list[tuple[str, str]] = []
    size, digest = _image(pair, findings)
    pixels: tuple[int, ...] = ()
    if not pair.label.is_file():
        findings.append(("label map missing", str(pair.label)))
    else:
        try:
            label = read_label(pair.label, reduce_zero_label=reduce_zero_label)
        except InputError as error:
            colour = "colour picture" in error.got
            findings.append(("label map is a colour picture" if colour else "label map cannot be read", str(pair.label)))
        else:
            if size is not None and label.shape != size:
                text = f"{pair.label}: {label.shape[1]}x{label.shape[0]}, its image {size[1]}x{size[0]}"
                findings.append(("sizes differ", text))
            counted = np.bincount(np.clip(label, 0, _MOST_LABELS - 1).ravel().astype(np.int64), minlength=_MOST_LABELS)
            pixels = tuple(int(count) for count in counted)
    return _Seen(tuple(findings), pixels, digest)


def _image(pair: Pair, findings: list[tuple[str, str]]) -> tuple[tuple[int, int] | None, str]:
    """(height, width) after the EXIF orientation, and the file's hash. Pillow, because OpenCV fills a cut JPEG with grey."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not pair.image.is_file():
        findings.append(("image missing", str(pair.image)))
        return None, ""
    try:
        with Image.open(pair.image) as picture:
            picture.load()
            width, height = ImageOps.exif_transpose(picture).size
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        findings.append(("image cannot be read", f"{pair.image}: {error}"))
        return None, ""
    return (height, width), hashlib.sha256(pair.image.read_bytes()).hexdigest()


def _check_list(split: Split, found: defaultdict[str, list[str]]) -> None:
    if not split.pairs:
        found["no image listed"].append(split.source)
    for name, count in Counter(pair.name for pair in split.pairs).items():
        if count > 1:
            found["listed twice"].append(f"{name} in {split.name} ({count} times)")
    if split.label_folder is not None and split.image_folder is not None and split.label_folder.is_dir():
        images = {path.stem for path in split.image_folder.iterdir()} if split.image_folder.is_dir() else set()
        alone = sorted(path for path in split.label_folder.glob("*.png") if path.stem not in images)
        found["label map of no image"] += [str(path) for path in alone if str(path) not in found["label map of no image"]]


def _check_labels(
    pair: Pair, pixels: tuple[int, ...], names: tuple[str, ...], ignore_index: int, found: defaultdict[str, list[str]]
) -> None:
    present = [label for label, count in enumerate(pixels) if count and label != ignore_index]
    if not present:
        found["nothing but void"].append(str(pair.label))
    beyond = [label for label in present if label >= len(names)] if names else []
    if beyond:
        shown = ", ".join(map(str, beyond[:5]))
        found["label out of range"].append(f"{pair.label}: {shown}, where 0..{len(names) - 1} are classes")


def _check_leaks(splits: Iterable[Split], places: dict[str, list[tuple[str, str]]], found: defaultdict[str, list[str]]) -> None:
    """An image to train on that is also one to test on, by name or by content."""
    held = [split for split in splits if not _trains(split.name)]
    for split in (one for one in splits if _trains(one.name)):
        for other in held:
            common = sorted({pair.name for pair in split.pairs} & {pair.name for pair in other.pairs})
            found["in two splits"] += [f"{name} in {split.name} and {other.name}" for name in common]
    for where in places.values():
        trained = [(split, name) for split, name in where if _trains(split)]
        tested = [(split, name) for split, name in where if not _trains(split)]
        for (trained_in, name), (tested_in, twin) in zip(trained[:1], tested[:1], strict=False):
            if name != twin:  # the same name is told above
                found["same picture in two splits"].append(f"{name} in {trained_in} is {twin} in {tested_in}")


def _trains(split: str) -> bool:
    return split.startswith(("train", "aug"))


def _check_classes(reports: tuple[SplitReport, ...], names: tuple[str, ...], found: defaultdict[str, list[str]]) -> None:
    for report in reports:
        if sum(report.pixels):
            absent = [name for name, count in zip(names, report.pixels, strict=False) if not count]
            found["class never occurs"] += [f"{name} in {report.name}" for name in absent]


def _labels_that_occur(counts: Iterable[list[tuple[int, ...]]], ignore_index: int) -> int:
    present = {label for rows in counts for row in rows for label, count in enumerate(row) if count and label != ignore_index}
    return max(present, default=0) + 1


def _report(split: Split, rows: list[tuple[int, ...]], classes: int, ignore_index: int) -> SplitReport:
    table = np.array(rows, np.int64).reshape(-1, _MOST_LABELS)
    chosen = np.concatenate([table[:, :classes], table[:, ignore_index : ignore_index + 1]], axis=1)
    return SplitReport(
        split.name,
        len(split.pairs),
        tuple(int(value) for value in chosen.sum(0)),
        tuple(int(value) for value in (chosen > 0).sum(0)),
    )
