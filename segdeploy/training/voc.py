"""PASCAL VOC 2012, alone or with SBD ("trainaug"): from the published archives to what mmseg's configs read.

    ROOT/VOCdevkit/VOC2012/
        JPEGImages  SegmentationClass  SegmentationClassAug
        ImageSets/Segmentation/  train.txt  val.txt  trainaug.txt  aug.txt
    ROOT/benchmark_RELEASE/dataset/
        cls  img  train.txt  val.txt

trainaug = (SBD's train and val + VOC's train) - VOC's val, and aug = trainaug - VOC's train: nothing of VOC's val is in either.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from segdeploy.base.errors import InputError, MissingExtraError
from segdeploy.base.files import write_file
from segdeploy.training.archives import Archive, recognise, unpack
from segdeploy.training.download import fetch

VOC_ARCHIVE = Archive("VOCtrainval_11-May-2012.tar", "6cd6e144f989b92b3379bac3b3de84fd", "VOCdevkit/VOC2012")
SBD_ARCHIVE = Archive("benchmark.tgz", "82b4d87ceb2ed10f6038a1cba92111cb", "benchmark_RELEASE/dataset")
WHOLE = {"train": 1464, "val": 1449, "trainaug": 10582}
_NAMED = 3
_NAME = re.compile(r"\w[\w.-]*")
_AGAIN = "start the same command again to go on"
_NEEDED = {
    "image": ("an image for every label map", "complete or mend JPEGImages"),
    "label": ("a PNG in SegmentationClass for every image of VOC", "complete or mend SegmentationClass"),
    "mat": ("SBD's GTcls.Segmentation, uint8 [H, W] of labels 0 to 20, in every .mat", "mend or replace them in SBD's cls"),
    "size": ("label maps of their images' sizes", "replace the image or the label map"),
    "write": ("room and permission to write", "free some space, or change the permissions"),
}


@dataclass(frozen=True)
class VocLists:
    """The names in each list, sorted; ``trainaug`` and ``aug`` are empty without SBD."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    trainaug: tuple[str, ...] = ()
    aug: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """How many names each list has, without the empty ones."""
        return {name: len(names) for name, names in vars(self).items() if names}


@dataclass(frozen=True)
class Prepared:
    """What ``prepare_voc`` left.

    Attributes:
        lists: of the data set.
        changed: anything was written.
        images_copied: from SBD, because VOC's folder lacked them.
    """

    lists: VocLists
    changed: bool
    images_copied: int = 0


def prepare_voc(
    root: Path,
    *,
    sbd: bool,
    archives: Sequence[Path] = (),
    subset: bool = False,
    workers: int,
    say: Callable[[str], None],
) -> Prepared:
    """Fetch, unpack and convert what is missing under ``root``. Interrupted at any point, the next call goes on.

    The lists of trainaug are written last: where they are, all their images and label maps are.

    Args:
        root: of the data.
        sbd: SBD as well.
        archives: files to take instead of fetching.
        subset: a part of the data set on purpose: neither MD5s nor numbers are held to the published ones.
        workers: processes that convert, at most.
        say: takes a line for the user: what is done, and all problems but the last.

    Raises:
        InputError: the last problem; the data set is not complete, and the lists of trainaug are not written.
        MissingExtraError: something is to be fetched, and torchvision is not installed.
    """
    with _alone(root):
        unpacked = _unpack_missing(root, [VOC_ARCHIVE, SBD_ARCHIVE] if sbd else [VOC_ARCHIVE], archives, subset, say)
        voc, benchmark = root / VOC_ARCHIVE.folder, root / SBD_ARCHIVE.folder
        lists = read_lists(voc, benchmark if sbd else None)
        if not subset:
            _check_counts(lists, root)
        missing = _missing_files(voc, lists)
        if not sbd or (_finished(voc, lists) and not missing):
            _raise_all([_incomplete(kind, found) for kind, found in _told(missing).items()], say)
            return Prepared(lists, unpacked)
        copied = _add_sbd(voc, benchmark, lists, missing, workers=workers, say=say)
        return Prepared(lists, changed=True, images_copied=copied)


def read_lists(voc: Path, sbd: Path | None) -> VocLists:
    """The lists of VOC, and those that follow from SBD's.

    Raises:
        InputError: a list is missing, or holds what is no name of an image; or VOC's train and val overlap.
    """
    train, val = (frozenset(_read_list(_list_path(voc, split))) for split in ("train", "val"))
    if both := sorted(train & val):
        raise InputError(
            expected=f"no image in both train.txt and val.txt of '{voc}'", got=_some(both), fix="restore VOC's own lists"
        )
    if sbd is None:
        return VocLists(tuple(sorted(train)), tuple(sorted(val)))
    of_sbd = {name for split in ("train", "val") for name in _read_list(sbd / f"{split}.txt")}
    trainaug = (of_sbd | train) - val
    return VocLists(*(tuple(sorted(names)) for names in (train, val, trainaug, trainaug - train)))


def _add_sbd(
    voc: Path, sbd: Path, lists: VocLists, missing: dict[str, list[str]], *, workers: int, say: Callable[[str], None]
) -> int:
    """Make the label maps, then the lists. Returns how many images were copied.

    What is known to be missing does not keep the others from being made, nor what is wrong with them from being told.
    """
    from segdeploy.training.voc_masks import Folders, Job, make_labels

    absent = {Path(file).stem for files in missing.values() for file in files}
    own = [Job(name, own=True) for name in lists.train + lists.val if name not in absent]
    outcomes = make_labels([*own, *(Job(name, own=False) for name in lists.aug)], Folders(voc, sbd), workers)
    faults = defaultdict(list, _told(missing))
    for outcome in outcomes:
        if outcome.fault:
            faults[outcome.fault].append(f"{outcome.name} ({outcome.detail})")
    _raise_all([_incomplete(kind, found) for kind, found in faults.items()], say)
    for split in ("aug", "trainaug"):
        write_file(_list_path(voc, split), _list_text(getattr(lists, split)))
    return sum(outcome.image_copied for outcome in outcomes)


def _unpack_missing(
    root: Path, needed: Sequence[Archive], given: Sequence[Path], subset: bool, say: Callable[[str], None]
) -> bool:
    missing = [archive for archive in needed if not (root / archive.folder).is_dir()]
    if not missing:
        return False
    problems: list[InputError] = []
    places: dict[Archive, Path] = {}
    for path in (*given, *(beside for archive in missing if (beside := root / archive.name).is_file())):
        with _noted(problems):
            archive = recognise(path, (VOC_ARCHIVE, SBD_ARCHIVE), subset=subset)
            if archive not in needed:
                raise InputError(expected="--sbd", got=f"SBD's archive '{path}' without it", fix="add it, or leave that out")
            places.setdefault(archive, path)
    _raise_all(problems, say)
    for archive in missing:
        with _noted(problems):
            if archive not in places:
                places[archive] = root / archive.name
                say(f"fetching {archive.name}")
                fetch(_address(archive), places[archive], archive.md5)
            unpack(places[archive], archive, root)
            say(f"unpacked: {root / archive.folder}")
    _raise_all(problems, say)
    return True


def _address(archive: Archive) -> str:
    try:
        from torchvision.datasets import SBDataset
        from torchvision.datasets.voc import DATASET_YEAR_DICT
    except ModuleNotFoundError as error:
        raise MissingExtraError(package="torchvision", extra="train", purpose="it knows where the archives are") from error
    return {VOC_ARCHIVE: DATASET_YEAR_DICT["2012"]["url"], SBD_ARCHIVE: SBDataset.url}[archive]


def _check_counts(lists: VocLists, root: Path) -> None:
    got = {name: count for name, count in lists.counts().items() if name in WHOLE}
    wanted = {name: WHOLE[name] for name in got}
    if got != wanted:
        raise InputError(
            expected=f"the numbers of the published data set in '{root}': {_numbers(wanted)}",
            got=_numbers(got),
            fix="complete it; if it is a part of the data set on purpose, pass --subset",
        )


def _missing_files(voc: Path, lists: VocLists) -> dict[str, list[str]]:
    """VOC's own images and label maps that are not there, by kind."""
    missing = {}
    for kind, folder, suffix in (("image", "JPEGImages", ".jpg"), ("label", "SegmentationClass", ".png")):
        absent = sorted({f"{name}{suffix}" for name in lists.train + lists.val} - _files(voc / folder))
        if absent:
            missing[kind] = absent
    return missing


def _told(missing: dict[str, list[str]]) -> dict[str, list[str]]:
    return {kind: [f"{file} (missing)" for file in files] for kind, files in missing.items()}


def _finished(voc: Path, lists: VocLists) -> bool:
    for split in ("aug", "trainaug"):
        path = _list_path(voc, split)
        if not path.is_file() or path.read_text() != _list_text(getattr(lists, split)):
            return False
    labels, images = _files(voc / "SegmentationClassAug"), _files(voc / "JPEGImages")
    return all(f"{name}.png" in labels and f"{name}.jpg" in images for name in lists.trainaug + lists.val)


def _read_list(path: Path) -> list[str]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        got = str(error.strerror).lower() if isinstance(error, OSError) else "not text"
        raise InputError(
            expected=f"a list of images at '{path}'", got=got, fix="restore it; if its folder is incomplete, remove that"
        ) from error
    for name in names:
        if not _NAME.fullmatch(name):  # it becomes a path
            raise InputError(expected=f"names of images in '{path}'", got=f"'{name}'", fix="restore the list")
    return names


def _list_path(voc: Path, split: str) -> Path:
    return voc / "ImageSets" / "Segmentation" / f"{split}.txt"


def _list_text(names: Sequence[str]) -> str:
    return "".join(f"{name}\n" for name in names)


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _incomplete(kind: str, found: Sequence[str]) -> InputError:
    expected, fix = _NEEDED[kind]
    return InputError(expected=expected, got=f"{len(found)} without: {_some(found)}", fix=f"{fix}, and {_AGAIN}")


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + rest


def _numbers(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


@contextmanager
def _noted(problems: list[InputError]) -> Iterator[None]:
    """Put a problem aside, so that what comes after it is tried too."""
    try:
        yield
    except InputError as error:
        problems.append(error)


def _raise_all(problems: Sequence[InputError], say: Callable[[str], None]) -> None:
    """Raise the last of several problems; the others are said before it, in the same form."""
    for problem in problems[:-1]:
        say(f"error: {problem}")
    if problems:
        raise problems[-1]


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold a lock on the folder: two runs at once would write into the same download."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root, os.O_RDONLY)
    except OSError as error:
        raise InputError(
            expected=f"a folder at '{root}'", got=str(error.strerror).lower(), fix="choose another --root"
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(expected=f"to work alone in '{root}'", got="another run at work there", fix="wait for it") from error
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        os.close(handle)
