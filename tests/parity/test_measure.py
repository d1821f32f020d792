"""Which pictures come together, and what is run of them at other shapes."""

import msgspec
import numpy as np
import pytest

from segdeploy.base.errors import InputError
from segdeploy.parity.inputs import Inputs, Picture
from segdeploy.parity.measure import Question, _batches, fingerprint, question, together
from segdeploy.parity.shapes import default_shapes


def picture(value, height=16, width=24):
    image = np.full((height, width, 3), value, np.uint8)
    return Picture(str(value), lambda: image, lambda: b"")


@pytest.fixture
def by_two(make_manifest):
    """A manifest of a batch of two."""
    manifest = make_manifest()
    axes = (2, *manifest.input.shape[1:])
    return msgspec.structs.replace(manifest, input=msgspec.structs.replace(manifest.input, shape=axes))


def test_neighbours_of_one_size_come_together(by_two, make_manifest):
    """As many as the smallest batch takes, in their order; none is left out, none comes twice."""
    pictures = [picture(1), picture(2), picture(3), picture(4, 32), picture(5, 32), picture(6)]
    groups = list(together(pictures, by_two))
    assert [[one.name for one in group.pictures] for group in groups] == [["1", "2"], ["3"], ["4", "5"], ["6"]]
    assert [[int(image[0, 0, 0]) for image in group.images] for group in groups] == [[1, 2], [3], [4, 5], [6]]
    assert list(together([], by_two)) == []
    wide = list(together([picture(1), picture(2, width=32)], by_two))
    assert [len(group.pictures) for group in wide] == [1, 1]
    assert [len(group.pictures) for group in together(pictures, make_manifest())] == [1] * 6  # a batch of one to four


def test_every_picture_or_one_batch():
    """The last batch is filled from the front; at a default shape there is one batch."""
    inputs = Inputs("three", tuple(map(picture, (1, 2, 3))))
    found = list(_batches(Question(inputs, (), every=True), (2, 8, 12)))
    assert [names for names, _ in found] == [["1", "2"], ["3", "1"]]
    assert [batch[:, 0, 0, 0].tolist() for _, batch in found] == [[1, 2], [3, 1]]
    assert {batch.shape for _, batch in found} == {(2, 8, 12, 3)}
    assert [names for names, _ in _batches(Question(inputs, (), every=False), (2, 8, 12))] == [["1", "2"]]
    assert [names for names, _ in _batches(Question(inputs, (), every=False), (1, 8, 12))] == [["1"]]
    assert [names for names, _ in _batches(Question(inputs, (), every=False), (4, 8, 12))] == [["1", "2", "3", "1"]]


def test_shapes_of_ones_own_are_for_every_picture(make_manifest):
    """And are refused where the artifact does not take one of them, the last one too."""
    manifest, inputs = make_manifest(), Inputs("one", (picture(1),))
    assert question(manifest, inputs, [(1, 8, 8), (2, 9, 9)]) == Question(inputs, ((1, 8, 8), (2, 9, 9)), every=True)
    assert question(manifest, inputs, None) == Question(inputs, tuple(default_shapes(manifest)), every=False)
    with pytest.raises(InputError, match="H within 8..64"):
        question(manifest, inputs, [(1, 8, 8), (1, 65, 8)])


def test_a_fingerprint_is_of_size_and_pixels():
    """The same bytes at another size are another picture; how they lie in memory says nothing."""
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert fingerprint(image) == fingerprint(np.asfortranarray(image))
    assert len({fingerprint(one) for one in (image, image.reshape(6, 4, 3), image + 1)}) == 3
