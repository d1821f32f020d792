import dataclasses

import cv2
import numpy as np
import pytest
import torch

from segdeploy.artifact.folder import open_artifact
from segdeploy.artifact.manifest import FORMATS, Bounds
from segdeploy.base.errors import BackendError, InputError, MissingExtraError
from segdeploy.export import export
from segdeploy.export.export import export_model
from segdeploy.export.exporter import check_export, find_exporter
from segdeploy.export.options import Options
from segdeploy.export.shapes import Shapes, example_shape
from segdeploy.models.checkpoint import load_checkpoint
from segdeploy.parity.verify import verify
from segdeploy.runtime import open_session

# N, H, W: the crop, odd, portrait, landscape, the smallest and the largest; batches of one to three.
SHAPES = [(1, 64, 96), (2, 91, 53), (3, 128, 40), (1, 45, 255), (2, 32, 32), (1, 256, 256), (3, 77, 77), (1, 33, 130)]


def images(count, height, width):
    random = np.random.default_rng(height)
    return np.stack([cv2.resize(random.integers(0, 256, (7, 9, 3), dtype=np.uint8), (width, height)) for _ in range(count)])


@pytest.mark.parametrize("fmt", ["onnx", "torchscript"])
def test_one_artifact_for_every_shape(request, fmt, eager, mmseg_model):
    """A single dynamic artifact agrees with mmseg's model at eight shapes, in logits and in masks."""
    seen = set()
    with open_session(request.getfixturevalue(f"{fmt}_artifact"), "cpu") as session:
        for shape in SHAPES:
            batch = images(*shape)
            ours, reference = session.run(batch, logits=True), eager.run(batch, logits=True)
            bgr = [torch.tensor(image[..., ::-1].transpose(2, 0, 1).copy()) for image in batch]
            with torch.no_grad():
                theirs = mmseg_model(mmseg_model.data_preprocessor({"inputs": bgr})["inputs"], mode="tensor").numpy()
            np.testing.assert_allclose(ours.logits, theirs, atol=1e-4, err_msg=str(shape))
            np.testing.assert_allclose(ours.logits, reference.logits, atol=1e-4, err_msg=str(shape))
            assert (ours.mask != reference.mask).mean() <= 1e-4, shape
            seen |= set(np.unique(ours.mask))
    assert len(seen) >= 3, "masks of one class would prove little"


def test_a_static_artifact_takes_one_shape(static_onnx):
    """Any other size or batch is an InputError that says which axis."""
    with open_session(static_onnx, "cpu") as session:
        assert session.run(images(1, 64, 96)).mask.shape == (1, 64, 96)
        for shape, words in (((1, 65, 96), "H = 64; got H = 65"), ((1, 64, 95), "W = 96"), ((2, 64, 96), "N = 1")):
            with pytest.raises(InputError, match=words):
                session.run(images(*shape))


@pytest.mark.parametrize("fmt", ["onnx", "torchscript", "tensorrt"])
def test_what_the_manifest_says(request, fmt, checkpoint_path):
    """Format, lineage, shapes and versions of every artifact are those it was made with."""
    artifact = request.getfixturevalue(f"{fmt}_artifact")
    manifest = artifact.manifest
    checkpoint = load_checkpoint(checkpoint_path)
    assert (manifest.format, manifest.precision, manifest.name) == (fmt, "fp32", "tiny")
    assert manifest.lineage.checkpoint_sha256 == checkpoint.sha256
    assert manifest.lineage.checkpoint == str(checkpoint_path)
    assert manifest.toolchain.torch == torch.__version__.split("+")[0]
    assert manifest.input.shape[1] == Bounds(min=32, opt=64, max=256)
    assert (manifest.target is None) == (fmt != "tensorrt")
    assert manifest.parity == ()
    assert open_artifact(artifact.folder).manifest == manifest


@pytest.mark.parametrize("older", [False, True])
def test_an_export_that_fails_midway(checkpoint_path, copied, torchscript_artifact, tmp_path, monkeypatch, older):
    """Neither an artifact nor a temporary folder is left; an older artifact is as it was."""

    def failing(graph, manifest, folder, options):
        (folder / "model.pt").write_bytes(b"half")
        raise RuntimeError("midway")

    if older:
        copied(torchscript_artifact, "out")
    exporter = dataclasses.replace(find_exporter("torchscript"), write=failing)
    monkeypatch.setattr(export, "check_export", lambda *_: exporter)
    with pytest.raises(RuntimeError, match="midway"):
        export_model(load_checkpoint(checkpoint_path), "torchscript", tmp_path / "out", name="x", shapes=Shapes(1, 64, 96))
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if older else [])
    assert not older or open_artifact(tmp_path / "out").manifest == torchscript_artifact.manifest


def test_an_unknown_format():
    """The known ones are listed."""
    with pytest.raises(BackendError, match="torchscript, pt2, onnx, openvino, tensorrt; got 'caffe'"):
        check_export("caffe", Options())


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_missing_package(fmt, monkeypatch):
    """Without its package a format says what to install."""
    import sys

    monkeypatch.setitem(sys.modules, "torch" if fmt in ("torchscript", "pt2") else "onnx", None)
    with pytest.raises(MissingExtraError, match=r"segdeploy\[export\]"):
        check_export(fmt, Options())


def test_random_weights(random_variant, tmp_path):
    """An untrained config exports, says that its weights mean nothing, and is verified against the very same weights."""
    path, _ = random_variant("untrained")
    shapes = Shapes(1, 64, 64)
    artifact = export_model(load_checkpoint(path), "torchscript", tmp_path / "x", name="x", shapes=shapes)
    assert artifact.manifest.lineage.random_weights
    parity = verify(artifact, device="cpu")
    assert {shape.verdict for shape in parity.shapes} == {"passed"}
    assert parity.verdict == "undecided", "a static shape changes what six pictures are taken for: too few to tell by"


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ((1, 64, 96, 3), (1, 64, 96)),
        ((Bounds(min=1, opt=1, max=8), Bounds(min=32, opt=64, max=256), Bounds(min=32, opt=96, max=256), 3), (2, 90, 130)),
        ((Bounds(min=4, opt=4, max=8), Bounds(min=200, opt=200, max=256), Bounds(min=32, opt=40, max=64), 3), (4, 200, 64)),
    ],
)
def test_example_shape(axes, shape):
    """Within the bounds, and as unlike any special case as they allow."""
    assert example_shape(axes) == shape
