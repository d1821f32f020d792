import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from segdeploy.export.graph import DeployGraph
from segdeploy.models.build import build_model
from segdeploy.models.checkpoint import load_checkpoint
from segdeploy.models.describe import describe
from segdeploy.models.packages import load_mmseg

SIZES = [(64, 96), (75, 51), (33, 130)]


def images(count, height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)
    import cv2

    return np.stack([cv2.resize(one, (width, height)) for one in coarse])


def mmseg_outputs(model, batch):
    """Raw logits, and labels by test_step, of an mmseg model."""
    with torch.no_grad():
        bgr = [torch.tensor(image[..., ::-1].transpose(2, 0, 1).copy()) for image in batch]
        inputs = model.data_preprocessor({"inputs": bgr})["inputs"]
        labels = [sample.pred_sem_seg.data[0].numpy() for sample in model.test_step({"inputs": bgr})]
        return model(inputs, mode="tensor").numpy(), np.stack(labels)


def random_model(config):
    """A model with random weights and random batch norm statistics, as mmseg builds it."""
    load_mmseg()
    from mmengine.config import ConfigDict
    from mmengine.model import revert_sync_batchnorm
    from mmseg.registry import MODELS

    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = revert_sync_batchnorm(MODELS.build(ConfigDict(copy.deepcopy(config)))).eval()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                module.weight.data.uniform_(0.5, 2)
    return model


VARIANTS = {
    "align_corners": {"decode_head": {"align_corners": True}},
    "bgr": {"data_preprocessor": {"bgr_to_rgb": False}},
    "without normalisation": {"data_preprocessor": {"mean": None, "std": None}},
    "pspnet": {"decode_head": {"type": "PSPHead", "in_channels": 64, "in_index": 3, "pool_scales": (1, 2, 3, 6)}},
    "aspp": {
        "decode_head": {"type": "ASPPHead", "in_channels": 64, "in_index": 3, "dilations": (1, 6, 12, 18), "pool_scales": None}
    },
    "fcn": {"decode_head": {"type": "FCNHead", "in_channels": 64, "in_index": 3, "pool_scales": None}},
    "with a neck": {
        "neck": {"type": "FPN", "in_channels": [8, 16, 32, 64], "out_channels": 8, "num_outs": 4},
        "decode_head": {"in_channels": [8] * 4},
    },
}


def variant(config, changes):
    model = copy.deepcopy(dict(config["model"]))
    model.pop("auxiliary_head")
    for part, values in changes.items():
        merged = {**model.get(part, {}), **values}
        model[part] = {key: value for key, value in merged.items() if value is not None}
    model["pretrained"] = None
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_mmsegs_model(checkpoint_path, config_values, name):
    """Heads, a neck, BGR, align_corners: logits and masks of the deploy graph are those of mmseg at every size."""
    model_config = variant(config_values, VARIANTS[name])
    model = random_model(model_config)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    checkpoint = dataclasses.replace(
        load_checkpoint(checkpoint_path), config={**config_values, "model": model_config}, state_dict=weights
    )
    manifest = describe(checkpoint, name="variant", fmt="onnx")
    graph = DeployGraph(build_model(checkpoint), manifest).eval()
    for size in SIZES:
        batch = images(2, *size)
        with torch.no_grad():
            mask, logits = graph(torch.tensor(batch))
        expected_logits, expected_mask = mmseg_outputs(model, batch)
        scale = max(1, np.abs(expected_logits).max())
        np.testing.assert_allclose(logits.numpy(), expected_logits, atol=2e-5 * scale)
        assert mask.dtype == torch.uint8
        assert (mask.numpy() != expected_mask).mean() < 1e-3


def test_the_trained_model(checkpoint_path, mmseg_model):
    """With trained weights: mmseg's logits and masks, several classes in them, in batches of one to three."""
    checkpoint = load_checkpoint(checkpoint_path)
    graph = DeployGraph(build_model(checkpoint), describe(checkpoint, name="n", fmt="onnx")).eval()
    for count, size in enumerate(SIZES, 1):
        batch = images(count, *size)
        with torch.no_grad():
            mask, logits = graph(torch.tensor(batch))
        expected_logits, expected_mask = mmseg_outputs(mmseg_model, batch)
        np.testing.assert_allclose(logits.numpy(), expected_logits, atol=1e-4)
        assert (mask.numpy() != expected_mask).sum() <= 1
        assert len(np.unique(expected_mask)) >= 2


def test_more_than_256_classes(checkpoint_path, config_values):
    """Labels beyond 255 come as int32 and do not wrap."""
    model_config = variant(config_values, {"decode_head": {"num_classes": 300}})
    model = random_model(model_config)
    with torch.no_grad():
        model.decode_head.conv_seg.bias[290] = 1e6
    checkpoint = dataclasses.replace(
        load_checkpoint(checkpoint_path),
        config={**config_values, "model": model_config, "test_dataloader": None, "val_dataloader": None},
        state_dict=model.state_dict(),
        dataset_meta={},
    )
    manifest = describe(checkpoint, name="many", fmt="onnx")
    mask, _ = DeployGraph(build_model(checkpoint), manifest).eval()(torch.tensor(images(1, 64, 64)))
    assert manifest.outputs[0].dtype == "int32"
    assert mask.dtype == torch.int32
    assert (mask == 290).all()


class Asking(torch.nn.Module):
    """A head that looks at its features first."""

    def __init__(self, head, ask):
        super().__init__()
        self.head, self.ask = head, ask

    def forward(self, features):
        self.ask(features[0])
        return self.head(features)


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x.numpy(),
        lambda x: x[x > 0],
        torch.unique,
        lambda x: torch.ops.quantized.linear_prepack(x) if isinstance(x, FakeTensor) else x,
    ],
)
def test_a_model_that_needs_values_stays_as_it_is(checkpoint_path, ask):
    """The search for convolutions runs without values: where a model asks for some nothing is found, and nothing fails."""
    checkpoint = load_checkpoint(checkpoint_path)
    manifest = describe(checkpoint, name="n", fmt="onnx")
    assert DeployGraph(build_model(checkpoint), manifest).restructured
    model = build_model(checkpoint)
    model.decode_head = Asking(model.decode_head, ask)
    graph = DeployGraph(model, manifest).eval()
    assert graph.restructured == ()
    with torch.no_grad():
        assert graph(torch.tensor(images(1, 64, 96)))[0].shape == (1, 64, 96)


@pytest.mark.parametrize("fault", [IndexError("tuple index out of range"), RuntimeError("shapes cannot be multiplied")])
def test_a_fault_of_the_search_is_seen(checkpoint_path, monkeypatch, fault):
    """It would read as a model that has nothing to gain."""

    def find(*_):
        raise fault

    monkeypatch.setattr("segdeploy.export.graph.find", find)
    checkpoint = load_checkpoint(checkpoint_path)
    with pytest.raises(type(fault)):
        DeployGraph(build_model(checkpoint), describe(checkpoint, name="n", fmt="onnx"))
