import msgspec
import numpy as np
import pytest

from segdeploy.export.quality import Judge, open_measured
from segdeploy.images.dataset import find_samples


def test_the_score_is_mmsegs(onnx_artifact, labelled_root, runner_scores):
    """mIoU on labelled images is what mmseg's own Runner says of the checkpoint."""
    judge = Judge(onnx_artifact.manifest, onnx_artifact.model_path, find_samples(labelled_root, "val"), ())
    judge.prepare()
    assert (judge.metric, judge.images) == ("mIoU", 6)
    assert judge.fp32 == pytest.approx(runner_scores["mIoU"], abs=0.02)


def test_agreement_is_a_share_of_pixels(onnx_artifact, images_folder, monkeypatch):
    """Without labels the float32 model's masks are the truth: 100 for itself, and the share of equal pixels for another."""
    paths = sorted(images_folder.iterdir())[:2]
    judge = Judge(onnx_artifact.manifest, onnx_artifact.model_path, [], paths)
    masks = iter([[np.zeros((2, 5)), np.zeros((1, 10))], [np.eye(2, 5), np.zeros((1, 10))]])
    monkeypatch.setattr(judge, "_predict", lambda *_: next(masks))
    judge.prepare()
    assert (judge.metric, judge.fp32, judge.images) == ("mask agreement", 100.0, 2)
    assert judge.score(onnx_artifact.model_path, "x") == 90.0


def test_a_static_artifact_is_measured_too(static_onnx):
    """Pictures of any size are brought to its height and width, and one is repeated to fill its batch."""
    from segdeploy.artifact.manifest import Bounds

    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    with open_measured(static_onnx.model_path, static_onnx.manifest) as session:
        assert session.artifact.manifest.preprocess.resize.scale == (96, 64)
        expected = session.run(image, logits=True)
    batch = msgspec.structs.replace(static_onnx.manifest.input, shape=(1, Bounds(min=64, opt=64, max=64), 96, 3))
    with open_measured(static_onnx.model_path, msgspec.structs.replace(static_onnx.manifest, input=batch)) as session:
        assert session.artifact.manifest.preprocess.resize == static_onnx.manifest.preprocess.resize
        np.testing.assert_array_equal(session.run(image).mask, expected.mask)


def test_a_batch_is_filled(onnx_artifact, eager):
    """Where the smallest batch is three, a picture goes in three times and comes out once."""
    from segdeploy.artifact.manifest import Bounds

    axes = (Bounds(min=3, opt=3, max=4), *onnx_artifact.manifest.input.shape[1:])
    manifest = msgspec.structs.replace(
        onnx_artifact.manifest, input=msgspec.structs.replace(onnx_artifact.manifest.input, shape=axes)
    )
    image = np.random.default_rng(1).integers(0, 256, (1, 40, 48, 3), dtype=np.uint8)
    with open_measured(onnx_artifact.model_path, manifest) as session:
        prediction = session.run(image, logits=True)
        session.execute(session.stage(image))
    expected = eager.run(image, logits=True)
    np.testing.assert_allclose(prediction.logits, expected.logits, atol=1e-4)
    assert prediction.mask.shape == expected.mask.shape
