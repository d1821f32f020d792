"""Images to train on that are also there to validate or test on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from segdeploy.images.dataset import Sample
from segdeploy.training.splits import Split, role


def find_leaks(splits: Iterable[Split], digests: Mapping[Sample, str]) -> Iterator[tuple[str, str]]:
    """Leaks between splits of different roles, as kinds of finding and texts.

    The same file in two splits, and two files of the same picture, are leaks. Two pictures of the same name are most often
    frames that every split numbers from 1.

    Args:
        splits: all; those without a role take no part.
        digests: of each pair's picture; empty where it could not be read.
    """
    listed = [(split.name, pair) for split in splits if role(split.name) for pair in split.pairs]
    places: defaultdict[Path, dict[str, None]] = defaultdict(dict)  # image -> splits
    for split_name, pair in listed:
        places[pair.image][split_name] = None
    where = {image: " and ".join(names) for image, names in places.items()}
    roles = {image: {role(name) for name in names} for image, names in places.items()}
    for image in places:
        if len(roles[image]) > 1:
            yield "in two splits", f"{image} in {where[image]}"
    twins = set(_apart(((digests[pair], pair.image) for _, pair in listed if digests[pair]), roles))
    for _, first, other in sorted(twins):
        yield "same picture in two splits", f"{first} in {where[first]} is {other} in {where[other]}"
    same = {(first, other) for _, first, other in twins}
    for name, first, other in _apart(((pair.name, pair.image) for _, pair in listed), roles):
        if (first, other) not in same:
            yield "same name in two splits", f"{name} in {where[first]} and {where[other]}, other pictures"


def _apart(keyed: Iterable[tuple[str, Path]], roles: Mapping[Path, set[str]]) -> Iterator[tuple[str, Path, Path]]:
    """(key, first image, other image) of images that share a key and differ in their roles."""
    groups: defaultdict[str, dict[Path, None]] = defaultdict(dict)
    for key, image in keyed:
        groups[key][image] = None
    for key, (first, *others) in groups.items():
        yield from ((key, first, other) for other in others if roles[other] != roles[first])
