import numpy as np
import pytest

from segdeploy.export.quality import QualityMeter
from segdeploy.images.dataset import find_samples


def test_the_score_is_mmsegs(onnx_artifact, labelled_root, runner_scores):
    """mIoU on labelled images is what mmseg's own Runner says of the checkpoint."""
    meter = QualityMeter(onnx_artifact.manifest, onnx_artifact.model_path, find_samples(labelled_root, "val"), ())
    meter.prepare()
    assert (meter.metric, meter.images) == ("mIoU", 6)
    assert meter.fp32 == pytest.approx(runner_scores["mIoU"], abs=0.02)


def test_agreement_is_a_share_of_pixels(onnx_artifact, images_folder, monkeypatch):
    """Without labels the float32 model's masks are the truth: 100 for itself, and the share of equal pixels for another."""
    paths = sorted(images_folder.iterdir())[:2]
    meter = QualityMeter(onnx_artifact.manifest, onnx_artifact.model_path, [], paths)
    masks = iter([[np.zeros((2, 5)), np.zeros((1, 10))], [np.eye(2, 5), np.zeros((1, 10))]])
    monkeypatch.setattr(meter, "_predict", lambda *_: next(masks))
    meter.prepare()
    assert (meter.metric, meter.fp32, meter.images) == ("mask agreement", 100.0, 2)
    assert meter.score(onnx_artifact.model_path, "x") == 90.0


def test_a_static_artifact_is_measured_too(export_tiny, labelled_root, tmp_path):
    """Pictures of any size, one at a time, on a fixed size and a fixed batch of three: the score is that of ``eval``."""
    from segdeploy.runtime import open_session
    from segdeploy.runtime.evaluation import evaluate

    samples = find_samples(labelled_root, "val")
    artifact = export_tiny("onnx", tmp_path / "static", static="64x96", largest=None, batch="3")
    meter = QualityMeter(artifact.manifest, artifact.model_path, samples, ())
    meter.prepare()
    with open_session(artifact, "cpu") as session:
        assert meter.fp32 == evaluate(session, samples).miou
    assert meter.fp32 > 20
