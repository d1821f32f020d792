import copy
import dataclasses

import pytest

from segdeploy.artifact.manifest import Bounds, Inference, Resize
from segdeploy.base.errors import CheckpointError, ConfigError
from segdeploy.models.build import build_model
from segdeploy.models.checkpoint import load_checkpoint
from segdeploy.models.describe import crop_size, default_name, describe, palette_note


@pytest.fixture
def checkpoint(checkpoint_path):
    return load_checkpoint(checkpoint_path)


@pytest.fixture
def changed(checkpoint):
    """The checkpoint with another config."""

    def change(**values):
        config = copy.deepcopy(dict(checkpoint.config))
        for path, value in values.items():
            *parents, last = path.split("__")
            place = config
            for key in parents:
                place = place[key]
            place[last] = value
        return dataclasses.replace(checkpoint, config=config)

    return change


def test_the_model_has_the_checkpoints_weights(checkpoint):
    """Every weight arrives, in eval mode, with plain batch norm and without the auxiliary head."""
    import torch

    model = build_model(checkpoint)
    own = model.state_dict()
    assert not any(name.startswith("auxiliary_head") for name in own)
    assert own.keys() == {name for name in checkpoint.state_dict if not name.startswith("auxiliary_head")}
    assert all(torch.equal(own[name], checkpoint.state_dict[name]) for name in own)
    assert not model.training
    assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in model.modules())


def test_nothing_is_downloaded(checkpoint, changed, monkeypatch):
    """Initial weights named in the config are not fetched: the checkpoint's replace them."""
    import torch

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *a, **k: pytest.fail("a download"))
    init = {"type": "Pretrained", "checkpoint": "torchvision://resnet18"}
    build_model(changed(model__backbone=dict(checkpoint.config["model"]["backbone"], init_cfg=init)))
    assert checkpoint.config["model"]["pretrained"], "the checkpoint's own config is not changed by building"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model__decode_head__num_classes": 7}, ("decode_head.conv_seg.weight", "(5, 16, 1, 1)", "(7, 16, 1, 1)")),
        ({"model__backbone__depth": 34}, ("backbone.layer1.2.conv1.weight is missing", "more")),
        ({"model__decode_head__pool_scales": (1, 2, 3)}, ("psp_modules.3.1.conv.weight is not in the model",)),
    ],
)
def test_weights_that_do_not_fit(changed, values, words):
    """The tensors that do not fit are named, in one line."""
    with pytest.raises(CheckpointError, match="weights that fit the config") as caught:
        build_model(changed(**values))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"model__type": "NoSuchSegmentor"},
        {"model__backbone__type": "NoSuchBackbone"},
        {"model__backbone__depth": 19},
        {"model__backbone__surprise": 1},
        {"model__decode_head__in_channels": [8]},
        {"model__decode_head": None},
    ],
)
def test_a_model_that_cannot_be_built(changed, values):
    """An unknown type, a wrong or surplus argument: a ConfigError of one line."""
    with pytest.raises(ConfigError) as caught:
        build_model(changed(**values))
    assert "\n" not in str(caught.value)


def test_describe(checkpoint, config_values):
    """The manifest says what the config says."""
    manifest = describe(checkpoint, name="n", fmt="eager")
    assert manifest.classes == tuple(checkpoint.dataset_meta["classes"])
    assert manifest.palette[1] == (200, 0, 0)
    assert manifest.preprocess.mean == (123.675, 116.28, 103.53)
    assert manifest.preprocess.color == "rgb"
    assert manifest.preprocess.resize == Resize(mode="keep_ratio", scale=(96, 64))
    assert manifest.inference == Inference(mode="whole")
    assert manifest.input.shape[1:3] == (Bounds(min=1, opt=64, max=1 << 16), Bounds(min=1, opt=96, max=1 << 16))
    assert manifest.lineage.checkpoint_sha256 == checkpoint.sha256
    assert manifest.lineage.data_root == config_values["test_dataloader"]["dataset"]["data_root"]
    assert not manifest.lineage.random_weights


def test_describe_other_configs(changed, checkpoint):
    """Slide inference, BGR, exact resize, align_corners and a static shape are said as they are."""
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "Resize", "scale": (40, 30)}, {"type": "PackSegInputs"}]
    other = changed(
        model__test_cfg={"mode": "slide", "crop_size": (64, 80), "stride": (32, 40)},
        model__data_preprocessor__bgr_to_rgb=False,
        model__decode_head__align_corners=True,
        test_dataloader=dict(checkpoint.config["test_dataloader"], dataset={"pipeline": pipeline}),
    )
    manifest = describe(other, name="n", fmt="onnx", batch=1, height=30, width=40)
    assert manifest.inference == Inference(mode="slide", crop=(64, 80), stride=(32, 40))
    assert manifest.preprocess.color == "bgr"
    assert manifest.preprocess.resize == Resize(mode="exact", scale=(40, 30))
    assert manifest.postprocess.align_corners
    assert manifest.input.shape == (1, 30, 40, 3)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model__data_preprocessor__mean": [1.0]}, "three channels"),
        ({"model__decode_head__num_classes": 9}, "9 class names"),
        ({"test_dataloader": {"dataset": {"pipeline": [{"type": "Albu"}]}}}, "Albu"),
    ],
)
def test_what_is_not_supported_is_said(changed, values, words):
    """A config that would be exported wrongly is refused, never silently approximated."""
    with pytest.raises(ConfigError, match=words):
        describe(changed(**values), name="n", fmt="onnx")


def test_classes_of_a_dataset_class(checkpoint, changed):
    """Without recorded classes those of the config's dataset class count, and its reduce_zero_label."""
    other = changed(
        test_dataloader={"dataset": {"type": "ADE20KDataset", "reduce_zero_label": True, "pipeline": []}},
        val_dataloader=None,
        model__decode_head__num_classes=150,
    )
    from segdeploy.models.packages import load_mmseg

    load_mmseg()
    manifest = describe(dataclasses.replace(other, dataset_meta={}), name="n", fmt="onnx")
    assert manifest.classes[:3] == ("wall", "building", "sky")
    assert manifest.reduce_zero_label


@pytest.mark.parametrize(
    ("file", "name"),
    [("epoch_9.pth", "run7"), ("iter_100.pth", "run7"), ("best_mIoU_epoch_3.pth", "run7"), ("mine.pth", "mine")],
)
def test_default_name(checkpoint, tmp_path, file, name):
    """A numbered file is called after its run, any other after itself."""
    assert default_name(dataclasses.replace(checkpoint, path=tmp_path / "run7" / file)) == name


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"crop_size": (1, 2), "model": {}}, (1, 2)),
        ({"crop_size": 7, "model": {}}, (7, 7)),
        ({"model": {"data_preprocessor": {"size": (3, 4)}}}, (3, 4)),
        ({"model": {}}, (512, 512)),
    ],
)
def test_crop_size(config, size):
    """The crop of training, wherever the config has it."""
    assert crop_size(config) == size


@pytest.mark.parametrize(("count", "dtype"), [(256, "uint8"), (257, "int32")])
def test_more_classes_than_bytes(changed, count, dtype):
    """The mask's type is the one that holds them, as the graph makes it."""
    other = changed(model__decode_head__num_classes=count)
    names = {"classes": tuple(map(str, range(count)))}
    manifest = describe(dataclasses.replace(other, dataset_meta=names), name="n", fmt="onnx")
    assert [output.dtype for output in manifest.outputs] == [dtype, "float32"]
    assert len(set(manifest.palette)) == count


@pytest.mark.parametrize(
    ("palette", "words"),
    [
        ([[0, 0, 0], [9, 9, 9]], "has no colour for 3 of 5 classes"),
        (None, "has no colour for 5 of 5 classes"),
        ([[i, i, i] for i in range(7)], "has 2 colours more than classes"),
        ([[i, i, i] for i in range(5)], None),
    ],
)
def test_a_palette_that_does_not_fit(checkpoint, palette, words):
    """Colours that nobody gave are made, each another, and that is said."""
    other = dataclasses.replace(checkpoint, dataset_meta={**checkpoint.dataset_meta, "palette": palette})
    note = palette_note(other)
    assert words in note if words else note is None
    found = describe(other, name="n", fmt="eager").palette
    assert len(set(found)) == 5
    assert list(found[: len(palette or ())]) == [tuple(one) for one in (palette or ())[:5]]
