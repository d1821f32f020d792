"""Encoded images of several sizes, and one running TorchServe."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest

LARGEST = 120 * 80  # of the pictures that are sent
SIZES = ((75, 100), (64, 96), (64, 96), (120, 80), (49, 41), (64, 96))


@pytest.fixture(scope="session")
def encoded():
    """PNG files of pictures with colours, three of one size and three of others."""
    random = np.random.default_rng(3)
    files = []
    for height, width in SIZES:
        blocks = random.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        picture = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_NEAREST)
        files.append(bytes(cv2.imencode(".png", picture)[1]))
    return files


@pytest.fixture(scope="session")
def archive(onnx_artifact, tmp_path_factory):
    """The tiny ONNX artifact, packed: a copy of it, since packing without a verdict is written into the manifest."""
    from segdeploy.artifact.folder import open_artifact
    from segdeploy.serve.archive import pack

    own = tmp_path_factory.mktemp("packed") / "onnx-fp32"
    shutil.copytree(onnx_artifact.folder, own)
    return pack(open_artifact(own), name="tiny-1.x", out=tmp_path_factory.mktemp("store"), unverified=True)


@pytest.fixture(scope="session")
def onnx_session(onnx_artifact):
    """The packed model in this process: what the server is held against."""
    from segdeploy.runtime import open_session

    with open_session(onnx_artifact, "cpu") as session:
        yield session


@pytest.fixture(scope="session")
def server(archive):
    """The archive served with batches of up to four, and limits that are soon reached."""
    pytest.importorskip("ts", reason="torchserve is not installed")
    from segdeploy.serve.front import Limits
    from segdeploy.serve.server import Settings, start

    settings = Settings(batch_size=4, max_batch_delay_ms=50, max_pixels=LARGEST, limits=Limits(request_s=2))
    with start(archive, settings=settings) as running:
        yield running
