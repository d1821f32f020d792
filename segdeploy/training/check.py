"""What is wrong with a data set: all of it, not the first thing only."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
import numpy as np

from segdeploy.artifact.layout import Labelling
from segdeploy.base.errors import InputError
from segdeploy.base.progress import track
from segdeploy.images.dataset import Sample, read_truth
from segdeploy.training.leaks import find_leaks
from segdeploy.training.processes import map_in_processes
from segdeploy.training.splits import Dataset, Split

_EXAMPLES = 5
_CHUNK = 16
_LARGEST_LABEL = 254  # mmseg reads label maps as uint8, and 255 is void
Severity: TypeAlias = Literal["fault", "note"]

# What can be found, in the order in which it is told. A note is worth a look and stops nobody.
KINDS: dict[str, Severity] = {
    "no image listed": "fault",
    "listed twice": "fault",
    "image missing": "fault",
    "label map missing": "fault",
    "label map of no image": "fault",
    "image cannot be read": "fault",
    "label map cannot be read": "fault",
    "label map is a colour picture": "fault",
    "sizes differ": "fault",
    "label out of range": "fault",
    "in two splits": "fault",
    "same picture in two splits": "fault",
    "same name in two splits": "note",
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
        pixels: of each class; of void at the end.
        images_with: in how many images each class occurs; void at the end.
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
    """What one pair holds: findings as (kind, text), pixels of each label that occurs, and a hash of the picture."""

    findings: tuple[tuple[str, str], ...]
    pixels: Mapping[int, int] = field(default_factory=dict)
    digest: str = ""


class _Findings:
    """Texts of each kind, each of them once: splits may share images."""

    def __init__(self) -> None:
        self._texts: defaultdict[str, dict[str, None]] = defaultdict(dict)

    def add(self, kind: str, text: str) -> None:
        self._texts[kind][text] = None

    def listed(self) -> tuple[Finding, ...]:
        found = [(kind, severity, tuple(self._texts[kind])) for kind, severity in KINDS.items() if kind in self._texts]
        return tuple(Finding(kind, severity, len(texts), texts[:_EXAMPLES]) for kind, severity, texts in found)


def check(dataset: Dataset, *, classes: int | None = None, workers: int) -> CheckReport:
    """Read every image and label map, and compare the splits.

    Args:
        dataset: what to check; see ``segdeploy.training.splits``.
        classes: how many there are, in place of what the data set says.
        workers: processes, at most.

    Returns:
        The report; nothing is raised for what is wrong with the data.

    Raises:
        InputError: a process was killed.
    """
    found = _Findings()
    pairs = list(dict.fromkeys(pair for split in dataset.splits for pair in split.pairs))
    work = partial(_look, labelling=Labelling(dataset.reduce_zero_label))
    results = map_in_processes(work, pairs, workers=workers, chunk=_CHUNK)
    seen = dict(zip(pairs, track(results, "check", len(pairs)), strict=True))
    _check_lists(dataset.splits, found)
    names = _names(dataset, classes)
    for pair, one in seen.items():
        for kind, text in one.findings:
            found.add(kind, text)
        _check_labels(pair, one.pixels, names, dataset.ignore_index, found)
    for kind, text in find_leaks(dataset.splits, {pair: one.digest for pair, one in seen.items()}):
        found.add(kind, text)
    guessed = not names
    names = names or tuple(f"label {index}" for index in range(_labels_that_occur(seen.values(), dataset.ignore_index)))
    reports = tuple(_report(split, seen, len(names), dataset.ignore_index) for split in dataset.splits)
    _check_classes(reports, names, found)
    return CheckReport(names, guessed, reports, found.listed())


def _names(dataset: Dataset, classes: int | None) -> tuple[str, ...]:
    if classes is None or classes == len(dataset.classes):
        return dataset.classes
    return tuple(f"label {index}" for index in range(classes))


def _look(pair: Sample, *, labelling: Labelling) -> _Seen:
    """Read one pair; runs in a worker process."""
    findings: list[tuple[str, str]] = []
    size, digest = _look_at_image(pair.image, findings)
    pixels: dict[int, int] = {}
    if not pair.label.is_file():
        findings.append(("label map missing", str(pair.label)))
    else:
        try:
            label = read_truth(pair, labelling)
        except InputError as error:
            kind = "label map is a colour picture" if "colour picture" in error.got else "label map cannot be read"
            findings.append((kind, f"{pair.label}: {error.got}"))
        else:
            if size is not None and label.shape != size:
                text = f"{pair.label}: {label.shape[1]}x{label.shape[0]}, its image {size[1]}x{size[0]}"
                findings.append(("sizes differ", text))
            if label.dtype == np.uint8:
                counts = np.bincount(label.ravel())
                pixels = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
            else:
                values, counts = np.unique(label, return_counts=True)
                pixels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    return _Seen(tuple(findings), pixels, digest)


def _look_at_image(path: Path, findings: list[tuple[str, str]]) -> tuple[tuple[int, int] | None, str]:
    """(height, width) as mmseg sees it, turned as EXIF says, and a hash of the pixels."""
    from PIL import Image, ImageOps

    if not path.is_file():
        findings.append(("image missing", str(path)))
        return None, ""
    try:
        with Image.open(path) as picture:  # not OpenCV: it fills what a cut JPEG lacks with grey
            turned = ImageOps.exif_transpose(picture)
            pixels = turned.convert("RGB").tobytes()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow's plugins raise
        findings.append(("image cannot be read", f"{path}: {str(error).replace(repr(str(path)), 'it')}"))
        return None, ""
    return (turned.height, turned.width), hashlib.sha256(b"%d %d " % turned.size + pixels).hexdigest()


def _check_lists(splits: Iterable[Split], found: _Findings) -> None:
    for split in splits:
        if not split.pairs:
            found.add("no image listed", split.source)
        for name, count in Counter(pair.name for pair in split.pairs).items():
            if count > 1:
                found.add("listed twice", f"{name} in {split.name} ({count} times)")
    for images, labels in dict.fromkeys((split.image_folder, split.label_folder) for split in splits):
        if images is not None and labels is not None and labels.is_dir():
            stems = {path.stem for path in images.iterdir()} if images.is_dir() else set()
            for path in sorted(labels.glob("*.png")):
                if path.stem not in stems:
                    found.add("label map of no image", str(path))


def _check_labels(pair: Sample, pixels: Mapping[int, int], names: Sequence[str], ignore_index: int, found: _Findings) -> None:
    present = sorted(label for label in pixels if label != ignore_index)
    if pixels and not present:
        found.add("nothing but void", str(pair.label))
    largest = len(names) - 1 if names else _LARGEST_LABEL
    beyond = [label for label in present if not 0 <= label <= largest]
    if beyond:
        shown = ", ".join(map(str, beyond[:_EXAMPLES])) + (" ..." if len(beyond) > _EXAMPLES else "")
        found.add("label out of range", f"{pair.label}: {shown}, where 0 to {largest} are classes")


def _check_classes(reports: Iterable[SplitReport], names: Sequence[str], found: _Findings) -> None:
    filled = [report for report in reports if sum(report.pixels)]
    for index, name in enumerate(names):
        absent = [report.name for report in filled if not report.pixels[index]]
        if absent:
            found.add("class never occurs", f"{name} in {', '.join(absent)}")


def _labels_that_occur(seen: Iterable[_Seen], ignore_index: int) -> int:
    present = {label for one in seen for label in one.pixels if label != ignore_index and 0 <= label <= _LARGEST_LABEL}
    return max(present, default=-1) + 1


def _report(split: Split, seen: Mapping[Sample, _Seen], classes: int, ignore_index: int) -> SplitReport:
    pixels: Counter[int] = Counter()
    images: Counter[int] = Counter()
    for pair in split.pairs:
        pixels.update(seen[pair].pixels)
        images.update(seen[pair].pixels.keys())
    columns = [*range(classes), ignore_index]
    return SplitReport(
        split.name,
        len(split.pairs),
        tuple(pixels[label] for label in columns),
        tuple(images[label] for label in columns),
    )
