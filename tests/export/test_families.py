"""Architectures that exporters get wrong, made narrow: one dynamic ONNX file each, against mmseg at several sizes."""

import cv2
import numpy as np
import onnx
import pytest
import torch

from segdeploy.artifact.manifest import Bounds
from segdeploy.export.export import export_model
from segdeploy.export.shapes import Shapes
from segdeploy.models.checkpoint import load_checkpoint
from segdeploy.runtime import open_session

NORM = {"type": "BN", "requires_grad": True}
HEAD = {"_delete_": True, "channels": 16, "num_classes": 5, "norm_cfg": NORM, "align_corners": False}
# A single stage: what is to be proven is the head's.
BACKBONE = {"num_stages": 1, "out_indices": (0,), "strides": (1,), "dilations": (1,)}
PLAIN = {**HEAD, "type": "FCNHead", "num_convs": 1, "concat_input": False}
# One stage, with windows of 144 pixels: an image of 90x130 has one alone, and of the sizes below some have two.
SWIN = {
    "_delete_": True,
    "type": "SwinTransformer",
    "embed_dims": 8,
    "depths": [2],
    "num_heads": [2],
    "strides": [4],
    "window_size": 36,
    "out_indices": (0,),
}
KNET = {
    "_delete_": True,
    "type": "IterativeDecodeHead",
    "num_stages": 1,
    "kernel_update_head": [
        {
            "type": "KernelUpdateHead",
            "num_classes": 5,
            "num_ffn_fcs": 2,
            "num_heads": 2,
            "num_mask_fcs": 1,
            "feedforward_channels": 16,
            "in_channels": 16,
            "out_channels": 16,
            "feat_transform_cfg": {"conv_cfg": {"type": "Conv2d"}, "act_cfg": None},
            "kernel_updator_cfg": {
                "type": "KernelUpdator",
                "in_channels": 16,
                "feat_channels": 16,
                "out_channels": 16,
                "act_cfg": {"type": "ReLU", "inplace": True},
                "norm_cfg": {"type": "LN"},
            },
        }
    ],
    "kernel_generate_head": {k: v for k, v in {**PLAIN, "in_channels": 8, "in_index": 0}.items() if k != "_delete_"},
}
FAMILIES = {
    "swin": {"model__backbone": SWIN, "model__decode_head": {**PLAIN, "in_channels": 8, "in_index": 0}},
    "knet": {"model__backbone": BACKBONE, "model__decode_head": KNET},
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_one_file_for_every_size(family, random_variant, tmp_path):
    """Logits of mmseg's own model at odd sizes and others, below and above the one it was exported at, in batches too."""
    path, model = random_variant(family, **FAMILIES[family])
    side = Bounds(min=24, opt=64, max=400)
    shapes = Shapes(Bounds(min=1, opt=1, max=4), side, side)
    artifact = export_model(load_checkpoint(path), "onnx", tmp_path / "x", name=family, shapes=shapes)
    (image,) = onnx.load(artifact.model_path).graph.input
    assert [axis.dim_param for axis in image.type.tensor_type.shape.dim[:3]] == ["N", "H", "W"]
    random = np.random.default_rng(0)
    seen = set()
    with open_session(artifact, "cpu") as session:
        for count, height, width in [(1, 64, 96), (2, 91, 53), (3, 128, 40), (1, 45, 255), (1, 24, 28), (1, 200, 60)]:
            coarse = random.integers(0, 256, (count, 7, 9, 3), dtype=np.uint8)
            batch = np.stack([cv2.resize(one, (width, height)) for one in coarse])
            ours = session.run(batch, logits=True)
            bgr = [torch.tensor(image[..., ::-1].transpose(2, 0, 1).copy()) for image in batch]
            with torch.no_grad():
                expected = model(model.data_preprocessor({"inputs": bgr})["inputs"], mode="tensor").numpy()
            np.testing.assert_allclose(ours.logits, expected, atol=1e-4 * max(1, np.abs(expected).max()))
            seen |= set(np.unique(ours.mask))
    assert len(seen) >= 2, "one label alone would prove nothing"
