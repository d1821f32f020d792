"""Architectures that exporters get wrong, made narrow: one dynamic ONNX file each, against mmseg at several sizes."""

import cv2
import numpy as np
import pytest
import torch

from segdeploy.core.checkpoint import load_checkpoint
from segdeploy.core.manifest import Bounds
from segdeploy.export.export import export_model
from segdeploy.export.shapes import Shapes
from segdeploy.runtime import open_session

NORM = {"type": "BN", "requires_grad": True}
HEAD = {"_delete_": True, "channels": 16, "num_classes": 5, "norm_cfg": NORM, "align_corners": False}
MIT = {
    "_delete_": True,
    "type": "MixVisionTransformer",
    "embed_dims": 8,
    "num_layers": [1, 1, 1, 1],
    "num_heads": [1, 2, 4, 8],
    "patch_sizes": [7, 3, 3, 3],
    "sr_ratios": [8, 4, 2, 1],
    "out_indices": (0, 1, 2, 3),
    "mlp_ratio": 2,
    "qkv_bias": True,
}
SWIN = {
    "_delete_": True,
    "type": "SwinTransformer",
    "embed_dims": 8,
    "depths": [2, 2, 2, 2],
    "num_heads": [1, 2, 4, 8],
    "window_size": 7,
    "out_indices": (0, 1, 2, 3),
}
UNET = {"_delete_": True, "type": "UNet", "base_channels": 4, "norm_cfg": NORM, "act_cfg": {"type": "ReLU"}}
FAMILIES = {
    "pspnet": {"model__decode_head": {**HEAD, "type": "PSPHead", "in_channels": 64, "in_index": 3, "align_corners": True}},
    "deeplabv3plus": {
        "model__decode_head": {
            **HEAD,
            "type": "DepthwiseSeparableASPPHead",
            "in_channels": 64,
            "in_index": 3,
            "dilations": (1, 12, 24, 36),
            "c1_in_channels": 8,
            "c1_channels": 4,
        }
    },
    "segformer": {
        "model__backbone": MIT,
        "model__decode_head": {**HEAD, "type": "SegformerHead", "in_channels": [8, 16, 32, 64], "in_index": [0, 1, 2, 3]},
    },
    "swin": {"model__backbone": SWIN, "model__decode_head": {"in_channels": [8, 16, 32, 64]}},
    "dmnet": {"model__decode_head": {**HEAD, "type": "DMHead", "in_channels": 64, "in_index": 3, "filter_sizes": (1, 3, 5)}},
    "unet": {
        "model__backbone": UNET,
        "model__decode_head": {**HEAD, "type": "FCNHead", "in_channels": 4, "in_index": 4, "num_convs": 1},
    },
    "segnext": {
        "model__decode_head": {
            **HEAD,
            "type": "LightHamHead",
            "in_channels": [16, 32, 64],
            "in_index": [1, 2, 3],
            "ham_channels": 16,
            "ham_kwargs": {"MD_S": 1, "MD_R": 8, "eval_steps": 3},
            "norm_cfg": {"type": "GN", "num_groups": 4, "requires_grad": True},
        }
    },
}
STEPS = {"unet": 16}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_one_file_for_every_size(family, random_variant, tmp_path):
    """Logits of mmseg's own model at odd sizes and others, below and above the one it was exported at, in batches too."""
    path, model = random_variant(family, **FAMILIES[family])
    step = STEPS.get(family, 1)
    side = Bounds(min=32, opt=64, max=256, step=step)
    shapes = Shapes(Bounds(min=1, opt=1, max=4), side, side)
    artifact = export_model(load_checkpoint(path), "onnx", tmp_path / "x", name=family, shapes=shapes)
    random = np.random.default_rng(0)
    seen = set()
    with open_session(artifact, "cpu") as session:
        for count, height, width in [(1, 64, 96), (2, 91, 53), (3, 128, 40), (1, 45, 255), (1, 33, 130)]:
            height, width = -(-height // step) * step, -(-width // step) * step  # noqa: PLW2901
            coarse = random.integers(0, 256, (count, 7, 9, 3), dtype=np.uint8)
            batch = np.stack([cv2.resize(one, (width, height)) for one in coarse])
            ours = session.run(batch, logits=True)
            bgr = [torch.tensor(image[..., ::-1].transpose(2, 0, 1).copy()) for image in batch]
            with torch.no_grad():
                expected = logits_of(model, model.data_preprocessor({"inputs": bgr})["inputs"])
            np.testing.assert_allclose(ours.logits, expected, atol=1e-4 * max(1, np.abs(expected).max()))
            seen |= set(np.unique(ours.mask))
    assert len(seen) >= 2, "one label alone would prove nothing"


def logits_of(model, inputs):
    """What mmseg's model gives. SegNeXt's bases are its one random draw: the first of the seed, the same for each image."""
    hamburger = getattr(model.decode_head, "hamburger", None)
    if hamburger is not None:
        hamburger.ham._build_bases = lambda b, s, d, r, device=None: torch.nn.functional.normalize(
            torch.rand((s, d, r), generator=torch.Generator().manual_seed(0)), dim=1
        ).repeat(b, 1, 1)
    return model(inputs, mode="tensor").numpy()
