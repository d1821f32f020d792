"""The tiny model: its config, a trained checkpoint as MMEngine writes it, and variants that predict in other ways."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest

from support.data import CLASSES, CROP, PALETTE, shapes_image

NORM = {"type": "BN", "requires_grad": True}
HEAD = {"_delete_": True, "channels": 16, "num_classes": 5, "norm_cfg": NORM, "align_corners": False}
BINARY = {
    "num_classes": 2,
    "out_channels": 1,
    "threshold": 0.6,
    "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": True},
}
TWO = {"metainfo": {"classes": ("ground", "thing"), "palette": [[0, 0, 0], [200, 0, 0]]}}
SLIDE = {"mode": "slide", "crop_size": (64, 64), "stride": (43, 43)}
FIRST = {**HEAD, "type": "FCNHead", "in_channels": 64, "in_index": 3, "num_convs": 1, "concat_input": False}
OCR = {**HEAD, "type": "OCRHead", "in_channels": 64, "in_index": 3, "ocr_channels": 8}
# How models predict that are no plain argmax of one head: changes of the tiny config.
WAYS_TO_PREDICT = {
    "align_corners": {"model__decode_head": {"align_corners": True}},
    "slide": {"model__test_cfg": SLIDE},
    "slide_align_corners": {"model__test_cfg": SLIDE, "model__decode_head": {"align_corners": True}},
    "binary": {"model__decode_head": BINARY, "val_dataloader__dataset": TWO},
    "binary_default_threshold": {"model__decode_head": {**BINARY, "threshold": None}, "val_dataloader__dataset": TWO},
    "binary_slide": {"model__decode_head": BINARY, "model__test_cfg": SLIDE, "val_dataloader__dataset": TWO},
    "pad_to_a_multiple": {"model__data_preprocessor": {"test_cfg": {"size_divisor": 32}, "pad_val": 7}},
    "pad_to_a_size": {"model__data_preprocessor": {"test_cfg": {"size": (80, 112)}}},
    "pad_align_corners": {
        "model__data_preprocessor": {"test_cfg": {"size_divisor": 32}},
        "model__decode_head": {"align_corners": True},
    },
    "pad_and_slide": {"model__data_preprocessor": {"test_cfg": {"size": (64, 64)}}, "model__test_cfg": SLIDE},
    "pad_to_a_divisor_of_the_crop": {
        "model__data_preprocessor": {"test_cfg": {"size_divisor": 16}},
        "model__test_cfg": SLIDE,
    },
    "pad_binary": {
        "model__data_preprocessor": {"test_cfg": {"size_divisor": 32}},
        "model__decode_head": BINARY,
        "val_dataloader__dataset": TWO,
    },
    "cascade": {
        "model__type": "CascadeEncoderDecoder",
        "model__num_stages": 2,
        "model__decode_head": [{k: v for k, v in one.items() if k != "_delete_"} for one in (FIRST, OCR)],
    },
    "da_head": {"model__decode_head": {**HEAD, "type": "DAHead", "in_channels": 64, "in_index": 3, "pam_channels": 8}},
    "enc_head": {
        "model__decode_head": {**HEAD, "type": "EncHead", "in_channels": [16, 32, 64], "in_index": (1, 2, 3), "num_codes": 4},
    },
}


def mmseg_config(data_root):
    """An mmseg config as plain data: UPerNet-R18 made narrow."""
    norm = {"type": "SyncBN", "requires_grad": True}  # as nearly all of mmseg's configs have it
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": (CROP[1], CROP[0]), "keep_ratio": True},
        {"type": "LoadAnnotations"},
        {"type": "PackSegInputs"},
    ]
    loader = {
        "batch_size": 1,
        "num_workers": 0,
        "persistent_workers": False,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "dataset": {
            "type": "BaseSegDataset",
            "data_root": str(data_root),
            "data_prefix": {"img_path": "img_dir/val", "seg_map_path": "ann_dir/val"},
            "img_suffix": ".png",
            "metainfo": {"classes": CLASSES, "palette": PALETTE},
            "pipeline": pipeline,
        },
    }
    return {
        "default_scope": "mmseg",
        "crop_size": CROP,
        "model": {
            "type": "EncoderDecoder",
            "pretrained": "torchvision://resnet18",
            "data_preprocessor": {
                "type": "SegDataPreProcessor",
                "mean": [123.675, 116.28, 103.53],
                "std": [58.395, 57.12, 57.375],
                "bgr_to_rgb": True,
                "pad_val": 0,
                "seg_pad_val": 255,
                "size": CROP,
            },
            "backbone": {"type": "ResNetV1c", "depth": 18, "base_channels": 8, "stem_channels": 8, "norm_cfg": norm},
            "decode_head": {
                "type": "UPerHead",
                "in_channels": [8, 16, 32, 64],
                "in_index": [0, 1, 2, 3],
                "pool_scales": (1, 2, 3, 6),
                "channels": 16,
                "dropout_ratio": 0.1,
                "num_classes": len(CLASSES),
                "norm_cfg": norm,
                "align_corners": False,
                "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
            },
            "auxiliary_head": {
                "type": "FCNHead",
                "in_channels": 32,
                "in_index": 2,
                "channels": 8,
                "num_convs": 1,
                "concat_input": False,
                "num_classes": len(CLASSES),
                "norm_cfg": norm,
                "align_corners": False,
                "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 0.4},
            },
            "train_cfg": {},
            "test_cfg": {"mode": "whole"},
        },
        "test_pipeline": pipeline,
        "val_dataloader": loader,
        "test_dataloader": loader,
        "test_evaluator": {"type": "IoUMetric", "iou_metrics": ["mIoU"]},
        "test_cfg": {"type": "TestLoop"},
    }


@pytest.fixture(scope="session")
def config_values(labelled_root):
    """The tiny model's config; a test that changes it takes a deep copy."""
    return mmseg_config(labelled_root)


@pytest.fixture(scope="session")
def config_file(config_values, tmp_path_factory):
    """Writes the tiny model's config as a file, the named keys changed: ``model__decode_head={...}``; ``_delete_`` replaces."""
    folder = tmp_path_factory.mktemp("configs")

    def write(name, **changes):
        from segdeploy.models.packages import load_mmseg

        load_mmseg()
        from mmengine.config import Config

        values = copy.deepcopy(config_values)
        for path, value in changes.items():
            *parents, last = path.split("__")
            place = values
            for key in parents:
                place = place[key]
            new = copy.deepcopy(value)
            merge = isinstance(new, dict) and not new.pop("_delete_", False)
            place[last] = {**(place.get(last) or {}), **new} if merge else new
        file = folder / f"{name}.py"
        file.write_text(Config(values).pretty_text)
        return file

    return write


@pytest.fixture(scope="session")
def checkpoint_path(made_once, config_values, one_thread):
    """A checkpoint with the layout of MMEngine's, trained for some seconds so that its masks have regions."""
    return made_once("checkpoint", lambda folder: _write_checkpoint(config_values, folder / "tiny.pth")) / "tiny.pth"


def _write_checkpoint(config_values, path):
    import torch
    from mmengine.config import Config
    from mmengine.model import revert_sync_batchnorm

    from segdeploy.models.packages import load_mmseg

    load_mmseg()
    from mmseg.registry import MODELS

    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of mmseg's, on its losses' defaults
        torch.manual_seed(0)
        model = revert_sync_batchnorm(MODELS.build(Config(copy.deepcopy(config_values)).model))
        _train(model)
    meta = {
        "cfg": Config(copy.deepcopy(config_values)).pretty_text,
        "dataset_meta": {"classes": CLASSES, "palette": PALETTE, "label_map": None, "reduce_zero_label": False},
        "epoch": 1,
        "iter": 60,
    }
    torch.save({"meta": meta, "state_dict": model.state_dict()}, path)


def _train(model):
    import torch
    from torch.nn import functional

    random = np.random.default_rng(1)
    pairs = [shapes_image(random, *CROP) for _ in range(32)]
    mean, std = model.data_preprocessor.mean, model.data_preprocessor.std
    images = (torch.tensor(np.stack([image for image, _ in pairs])).permute(0, 3, 1, 2) - mean) / std
    labels = torch.tensor(np.stack([label for _, label in pairs])).long()
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    model.train()
    for step in range(60):
        chosen = slice(8 * step % 32, 8 * step % 32 + 8)
        logits = model.decode_head(model.extract_feat(images[chosen]))
        full = functional.interpolate(logits, size=CROP, mode="bilinear")
        loss = functional.cross_entropy(full, labels[chosen], ignore_index=255)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    with torch.no_grad():
        masks = model.decode_head(model.extract_feat(images[:4])).argmax(1)
    assert len(masks.unique()) >= 4, "the fixture's masks must have regions of several classes"


@pytest.fixture(scope="session")
def random_variant(config_file, tmp_path_factory, one_thread):
    """Writes a checkpoint of the changed tiny model with random weights; gives its path, and the model as mmseg loads it."""
    folder = tmp_path_factory.mktemp("variants")

    def make(name, **changes):
        from mmengine.config import Config
        from mmengine.model import revert_sync_batchnorm

        from segdeploy.models.random_weights import write_random_checkpoint

        file = config_file(name, **changes)
        path = folder / name / f"{name}.pth"
        write_random_checkpoint(str(file), path)
        from mmseg.apis import init_model

        config = Config.fromfile(file)
        config.model.pretrained = None
        return path, revert_sync_batchnorm(init_model(config, str(path), device="cpu"))

    return make


@pytest.fixture(scope="session", params=WAYS_TO_PREDICT)
def way_to_predict(request, random_variant):
    """A checkpoint of each of ``WAYS_TO_PREDICT``, and the model as mmseg loads it."""
    changes = dict(WAYS_TO_PREDICT[request.param])
    if "val_dataloader__dataset" in changes:
        changes["test_dataloader__dataset"] = changes["val_dataloader__dataset"]
    return random_variant(request.param, **changes)


@pytest.fixture(scope="session")
def eager(checkpoint_path):
    """The reference session of the tiny checkpoint."""
    from segdeploy.runtime import open_session
    from segdeploy.runtime.open import eager_artifact

    with open_session(eager_artifact(checkpoint_path), "cpu") as session:
        yield session
