"""Which profile a shape runs in, and what of a fixed shape is captured as a graph."""

import msgspec
import numpy as np
import pytest

from segdeploy.artifact.manifest import Bounds, Profile
from segdeploy.base.errors import InputError
from segdeploy.runtime import open_session
from support.fake_tensorrt import FIXED, WIDE, expected, noise

SMALL = Profile(min=(1, 8, 8), opt=(1, 16, 24), max=(1, 20, 30))
BATCHES = Profile(min=(2, 16, 24), opt=(4, 16, 24), max=(8, 16, 24))


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_each_shape_runs_in_its_profile(fake_trt, engine, engine_manifest, cuda_runtime, name):
    """The context is switched to the profile of the shape, only where it changes, and what comes out is right."""
    profiles = (SMALL, BATCHES, WIDE)
    trt = fake_trt(name, *profiles)
    axes = (Bounds(min=1, opt=1, max=8), Bounds(min=8, opt=16, max=64), Bounds(min=8, opt=24, max=64), 3)
    manifest = engine_manifest(*profiles, name=name)
    manifest = msgspec.structs.replace(manifest, input=msgspec.structs.replace(manifest.input, shape=axes))
    with open_session(engine(manifest=manifest)) as session:
        trt.calls.clear()
        reserved = list(cuda_runtime.events)
        for shape, profile in [((1, 16, 24), 0), ((1, 18, 24), 0), ((8, 16, 24), 1), ((3, 16, 24), 1), ((1, 60, 60), 2)]:
            images = noise(*shape)
            prediction = session.run(images, logits=True)
            mask, logits = expected(images)
            np.testing.assert_array_equal(prediction.mask, mask)
            np.testing.assert_allclose(prediction.logits, logits, rtol=1e-6)
            assert session._profile == profile
        assert trt.calls == [("profile", 0), ("profile", 1), ("profile", 2)]
        assert cuda_runtime.events == reserved, "a run allocated"


def test_a_shape_in_no_profile(fake_trt, engine, engine_manifest):
    """Within the range of every axis and yet in no profile: refused in one line that lists them, before TensorRT is asked."""
    trt = fake_trt("tensorrt_rtx", SMALL, BATCHES)
    manifest = engine_manifest(SMALL, BATCHES)
    with open_session(engine(manifest=manifest)) as session:
        trt.calls.clear()
        with pytest.raises(InputError, match="1x8x8:1x16x24:1x20x30, 2x16x24:4x16x24:8x16x24; got 2x18x24") as caught:
            session.run(noise(2, 18, 24))
        assert "\n" not in str(caught.value)
        assert not trt.calls
        assert trt.runs == 0


def fixed(engine_manifest, name):
    manifest = engine_manifest(FIXED, name=name)
    return msgspec.structs.replace(manifest, input=msgspec.structs.replace(manifest.input, shape=(2, 16, 24, 3)))


def test_a_fixed_shape_is_captured(fake_trt, engine, engine_manifest, cuda_runtime):
    """TensorRT with one shape: the first run is plain, the others launch its graph, and give what the images are."""
    trt = fake_trt("tensorrt", FIXED)
    with open_session(engine(manifest=fixed(engine_manifest, "tensorrt"))) as session:
        for seed in range(3):
            images = noise(2, 16, 24, seed=seed)
            prediction = session.run(images, logits=True)
            mask, logits = expected(images)
            np.testing.assert_array_equal(prediction.mask, mask)
            np.testing.assert_allclose(prediction.logits, logits, rtol=1e-6)
            assert cuda_runtime.events.count(("launch",)) == seed
            assert not cuda_runtime.queue
        assert trt.runs == 3
    assert not cuda_runtime.graphs
    assert not cuda_runtime.memory


def test_what_cannot_be_captured_runs_all_the_same(fake_trt, engine, engine_manifest, cuda_runtime):
    """Where TensorRT refuses the capture it is tried once, and every run is a plain one."""
    trt = fake_trt("tensorrt", FIXED)
    trt.capturable = False
    with open_session(engine(manifest=fixed(engine_manifest, "tensorrt"))) as session:
        for seed in range(3):
            images = noise(2, 16, 24, seed=seed)
            np.testing.assert_array_equal(session.run(images).mask, expected(images)[0])
        assert trt.runs == 3
    assert ("launch",) not in cuda_runtime.events


def test_several_shapes_are_not_captured(fake_trt, engine, engine_manifest, cuda_runtime):
    """A graph would hold the first shape for ever."""
    fake_trt("tensorrt", WIDE)
    with open_session(engine(manifest=engine_manifest(name="tensorrt"))) as session:
        for seed in range(3):
            session.run(noise(2, 16, 24, seed=seed))
    assert ("launch",) not in cuda_runtime.events


def test_rtx_captures_by_itself(fake_trt, engine, engine_manifest, cuda_runtime):
    """TensorRT-RTX is told to, for one shape only; nothing is captured here on top of it."""
    trt = fake_trt("tensorrt_rtx", FIXED)
    with open_session(engine(manifest=fixed(engine_manifest, "tensorrt_rtx"))) as session:
        session.run(noise(2, 16, 24))
        session.run(noise(2, 16, 24))
    assert trt.calls == [("context", "whole graph")]
    assert ("launch",) not in cuda_runtime.events
    trt = fake_trt()
    with open_session(engine()):
        assert trt.calls == [("context", None)]
