"""A size that an artifact was not made for is refused with one line, before its runtime is called."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import Bounds
from segdeploy.base.errors import InputError
from segdeploy.runtime import open_session

# What each session calls.
RUNTIMES = {"torchscript": "_module", "onnx": "_session", "openvino": "_request", "pt2": "_package"}


@pytest.fixture(params=RUNTIMES)
def refusing(request):
    """Opens an artifact of each format with other axes in its manifest, and takes its runtime away."""
    artifact = request.getfixturevalue(f"{request.param}_artifact")

    def open_without_runtime(*axes):
        shape = msgspec.structs.replace(artifact.manifest.input, shape=(*axes, 3))
        session = open_session(Artifact(artifact.folder, msgspec.structs.replace(artifact.manifest, input=shape)), "cpu")
        assert getattr(session, RUNTIMES[request.param]) is not None
        setattr(session, RUNTIMES[request.param], None)
        return session

    return open_without_runtime


def check(session, cases):
    for shape, words in cases:
        images = np.zeros((*shape, 3), np.uint8)
        for call in (session.run, session.stage):
            with pytest.raises(InputError, match=words) as caught:
                call(images)
            assert "\n" not in str(caught.value)
            assert "export for other shapes (--shape, --min-shape, --max-shape, --batch)" in str(caught.value)


def test_a_static_artifact(refusing):
    """Each axis that is not as it was exported is named with both sizes."""
    cases = (
        ((1, 65, 96), "expected H = 64; got H = 65"),
        ((1, 64, 32), "expected W = 96; got W = 32"),
        ((2, 64, 96), "expected N = 1; got N = 2"),
    )
    check(refusing(1, 64, 96), cases)


def test_bounds(refusing):
    """One pixel or one image beyond either end, and a size between two multiples."""
    axes = Bounds(min=1, opt=2, max=3), Bounds(min=48, opt=64, max=128, step=16), Bounds(min=40, opt=96, max=200)
    cases = (
        ((4, 64, 96), r"N within 1\.\.3 .*got N = 4"),
        ((0, 64, 96), r"N within 1\.\.3 .*got N = 0"),
        ((1, 32, 96), r"H within 48\.\.128, a multiple of 16,.*got H = 32"),
        ((1, 144, 96), r"H within 48\.\.128.*got H = 144"),
        ((1, 72, 96), "a multiple of 16,.*got H = 72"),
        ((1, 64, 39), r"W within 40\.\.200 .*got W = 39"),
        ((1, 64, 201), r"W within 40\.\.200 .*got W = 201"),
    )
    check(refusing(*axes), cases)
