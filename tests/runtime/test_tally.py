"""Reading ahead: in order, few at a time, and a bad file costs itself alone."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from segdeploy.base.errors import InputError
from segdeploy.images.dataset import find_samples
from segdeploy.runtime import tally as module
from segdeploy.runtime.tally import empty_matrix, load_sample, read_ahead


@pytest.fixture
def samples(labelled_root):
    return find_samples(labelled_root, "val")


def test_in_order_and_the_same(samples, onnx_artifact):
    """What is read ahead is what reading it at its turn gives."""
    matrix = empty_matrix(onnx_artifact)
    found = [(sample, reading.result()) for sample, reading in read_ahead(samples, onnx_artifact.manifest, matrix)]
    assert [sample for sample, _ in found] == list(samples)
    for sample, loaded in found:
        alone = load_sample(sample, onnx_artifact.manifest, matrix)
        assert (loaded.image == alone.image).all()
        assert (loaded.truth == alone.truth).all()


def test_few_are_in_memory(samples, onnx_artifact, monkeypatch):
    """However many there are, no more than a few are read before one is asked for; and in another thread."""
    read, load = [], module.load_sample

    def noted(sample, *more):
        read.append(threading.current_thread().name)
        return load(sample, *more)

    monkeypatch.setattr(module, "load_sample", noted)
    many = samples * 10
    for taken, (_, reading) in enumerate(read_ahead(many, onnx_artifact.manifest, empty_matrix(onnx_artifact))):
        reading.result()
        assert len(read) <= taken + 1 + module._AHEAD + 1
    assert len(read) == len(many)
    assert all(name.startswith("read-ahead") for name in read)


def test_a_bad_file_is_told_at_its_turn(samples, onnx_artifact, tmp_path):
    """The others are not touched by it."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    listed = [samples[0], dataclasses.replace(samples[1], image=broken), samples[2]]
    readings = [reading for _, reading in read_ahead(listed, onnx_artifact.manifest, empty_matrix(onnx_artifact))]
    assert readings[0].result().sample == listed[0]
    with pytest.raises(InputError, match=r"broken\.png"):
        readings[1].result()
    assert readings[2].result().sample == listed[2]


def test_left_in_the_middle_nothing_goes_on(samples, onnx_artifact):
    """Who stops asking ends the thread."""
    before = threading.active_count()
    ahead = read_ahead(samples * 5, onnx_artifact.manifest, empty_matrix(onnx_artifact))
    next(ahead)
    ahead.close()
    assert threading.active_count() == before
