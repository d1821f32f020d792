"""What is in two splits of different roles, and what only looks so."""

from __future__ import annotations

from pathlib import Path

from segdeploy.images.dataset import Sample
from segdeploy.training.leaks import find_leaks
from segdeploy.training.splits import Split


def leaks(**splits):
    """Of splits of {image: content}: an image's path without its folder is its name."""
    made, digests = [], {}
    for name, images in splits.items():
        pairs = tuple(Sample(Path(image).name, Path(image), Path("label")) for image in images)
        digests |= dict(zip(pairs, images.values(), strict=True))
        made.append(Split(name, name, pairs))
    return list(find_leaks(made, digests))


def test_none():
    """Other pictures of other names."""
    assert leaks(train={"a": "A", "b": "B"}, val={"c": "C"}, test={"d": "D"}) == []


def test_same_file():
    """One file in splits of two roles, told once though three lists have it; its content is no second leak."""
    found = leaks(train={"a": "A"}, trainaug={"a": "A"}, val={"a": "A", "b": "B"})
    assert found == [("in two splits", "a in train and trainaug and val")]


def test_same_content():
    """Two files of one picture; the same name says nothing more."""
    found = leaks(train={"t/a": "A", "t/b": "B"}, val={"v/a": "A", "v/c": "B"})
    assert found == [
        ("same picture in two splits", "t/a in train is v/a in val"),
        ("same picture in two splits", "t/b in train is v/c in val"),
    ]


def test_same_name():
    """Frames that every split numbers from 1."""
    found = leaks(train={"t/1": "A"}, val={"v/1": "B"}, test={"s/1": "C"})
    assert found == [
        ("same name in two splits", "1 in train and val, other pictures"),
        ("same name in two splits", "1 in train and test, other pictures"),
    ]


def test_validation_and_test():
    """To choose a model by what it is tested on is a leak too."""
    assert leaks(val={"a": "A"}, test={"a": "A"}) == [("in two splits", "a in val and test")]


def test_no_leak_within_a_role():
    """Lists that are made of others, and a picture that is there twice, share what they may."""
    assert leaks(train={"a": "A", "b": "A"}, aug={"x/a": "C"}, trainaug={"a": "A", "x/a": "C"}) == []


def test_no_role():
    """Of a list whose purpose nobody knows nothing is said."""
    assert leaks(train={"a": "A"}, trainval={"a": "A", "c": "C"}, mine={"a": "A"}, val={"c": "C"}) == []


def test_unreadable_pictures_are_not_alike():
    """What could not be read has no content."""
    assert leaks(train={"a": ""}, val={"b": ""}) == []
