import cv2
import numpy as np
import pytest

from segdeploy.base.errors import CheckpointError
from segdeploy.runtime import open_session
from segdeploy.runtime.open import eager_artifact


@pytest.mark.parametrize("size", [(64, 96), (75, 51), (33, 130)])
def test_is_the_mmseg_model(eager, mmseg_model, size):
    """Logits and mask are those of mmseg's own test_step on the same pixels."""
    import torch

    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8), size[::-1])
    ours = eager.run(image[None], logits=True)
    bgr = torch.tensor(image[..., ::-1].transpose(2, 0, 1).copy())
    with torch.no_grad():
        theirs = mmseg_model.test_step({"inputs": [bgr]})[0]
        inputs = mmseg_model.data_preprocessor({"inputs": [bgr]})["inputs"]
        raw = mmseg_model(inputs, mode="tensor")
    np.testing.assert_allclose(ours.logits, raw.numpy(), atol=1e-5)
    np.testing.assert_array_equal(ours.mask[0], theirs.pred_sem_seg.data[0].numpy())
    assert len(np.unique(ours.mask)) >= 2


def test_with_a_config_beside_it(checkpoint_path, eager, tmp_path):
    """Weights saved alone run with --config, and give what the whole checkpoint gives."""
    import torch

    content = torch.load(checkpoint_path, weights_only=True)
    bare, config = tmp_path / "bare.pth", tmp_path / "config.py"
    torch.save(content["state_dict"], bare)
    config.write_text(content["meta"]["cfg"])
    with pytest.raises(CheckpointError):
        eager_artifact(bare)
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    with open_session(eager_artifact(bare, str(config)), "cpu") as session:
        np.testing.assert_array_equal(session.run(image).mask, eager.run(image).mask)


def test_every_way_to_predict(way_to_predict):
    """Binary heads, padding, cascades, heads with auxiliary outputs: masks are those of mmseg's own test_step, whole images."""
    import torch
    from mmengine.config import ConfigDict
    from mmseg.structures import SegDataSample

    path, model = way_to_predict
    whole = model.test_cfg
    model.test_cfg = ConfigDict(mode="whole")
    random = np.random.default_rng(3)
    labels = set()
    with open_session(eager_artifact(path), "cpu") as session:
        for size in [(64, 96), (75, 51), (33, 130)]:
            image = cv2.resize(random.integers(0, 256, (7, 9, 3), dtype=np.uint8), size[::-1])
            bgr = torch.tensor(image[..., ::-1].transpose(2, 0, 1).copy())
            sample = SegDataSample(metainfo={"ori_shape": size, "img_shape": size})
            with torch.no_grad():
                theirs = model.test_step({"inputs": [bgr], "data_samples": [sample]})[0]
            mask = session.run(image[None]).mask[0]
            assert mask.dtype == np.uint8
            assert (mask != theirs.pred_sem_seg.data[0].numpy()).sum() <= 1
            labels |= set(np.unique(mask))
    model.test_cfg = whole
    assert len(labels) >= 2, "one label alone would prove nothing"
