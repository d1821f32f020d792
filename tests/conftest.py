"""What all tests share: a tiny trained checkpoint as MMEngine writes it, labelled images, artifacts made from them once."""

from __future__ import annotations

import copy
import importlib.util
import shutil
import signal
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

# Started in the background by a shell, a process ignores Ctrl-C, and so do the programs whose Ctrl-C is tested here.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[2] / "shared"
CLASSES = ("background", "red", "green", "blue", "white")
PALETTE = [[0, 0, 0], [200, 0, 0], [0, 200, 0], [0, 0, 200], [230, 230, 230]]
COLOURS = np.array([(90, 90, 90), (200, 40, 40), (40, 190, 50), (50, 60, 210), (235, 235, 235)])
CROP = (64, 96)
# Height x width: landscape, portrait, smaller and larger than the network's input, odd; the last keeps its size.
IMAGE_SIZES = ((75, 100), (120, 80), (49, 41), (131, 197), (77, 77), CROP)


def shapes_image(random, height, width):
    """A picture (RGB) of coloured ellipses and boxes over grey, and its label map with void along every outline."""
    label = np.zeros((height, width), np.uint8)
    void = np.zeros((height, width), np.uint8)
    for _ in range(5):
        colour = int(random.integers(1, len(CLASSES)))
        centre = (int(random.integers(width)), int(random.integers(height)))
        axes = tuple(int(random.integers(side // 8 + 2, side // 3 + 4)) for side in (width, height))
        for canvas, value, thickness in ((label, colour, -1), (void, 0, -1), (void, 1, 1)):
            if colour % 2:
                cv2.ellipse(canvas, (centre, (2 * axes[0], 2 * axes[1]), 0), value, thickness)
            else:
                corner = (centre[0] + axes[0], centre[1] + axes[1])
                cv2.rectangle(canvas, centre, corner, value, thickness)
    noise = random.normal(0, 12, (height, width, 3))
    image = np.clip(COLOURS[label] + noise, 0, 255).astype(np.uint8)
    label[void > 0] = 255
    return image, label


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
def voc_sbd():
    """Makes a small VOC + SBD as published, unpacked: 3 to train, 2 to validate, and of SBD one each of these and the rest."""
    from PIL import Image
    from scipy.io import savemat
    from scipy.sparse import csc_array

    def make(root, rest=("2008_000009", "2008_000004", "2008_000006", "2008_000005")):
        voc, sbd = root / "VOCdevkit" / "VOC2012", root / "benchmark_RELEASE" / "dataset"
        lists = voc / "ImageSets" / "Segmentation"
        for folder in (voc / "JPEGImages", voc / "SegmentationClass", lists, sbd / "cls", sbd / "img"):
            folder.mkdir(parents=True)
        train, val = ("2007_000003", "2007_000001", "2007_000002"), ("2007_000008", "2007_000007")
        random = np.random.default_rng(0)
        for index, name in enumerate((*train, *val, *rest)):
            image, label = shapes_image(random, *((40, 56), (57, 41))[index % 2])
            cv2.imwrite(str(voc / "JPEGImages" / f"{name}.jpg"), image)
            if name in train + val:
                picture = Image.fromarray(label)
                picture.putpalette(bytes(range(256)) * 3)
                picture.save(voc / "SegmentationClass" / f"{name}.png")
            if name in (train[0], val[0], *rest):
                label = np.where(label == 255, 20, label).astype(np.uint8)
                boundaries = np.empty((20, 1), object)
                for kind in range(20):
                    boundaries[kind, 0] = csc_array(label == kind + 1)
                content = {"Boundaries": boundaries, "Segmentation": label, "CategoriesPresent": np.array([[1.0], [20.0]])}
                savemat(sbd / "cls" / f"{name}.mat", {"GTcls": content}, do_compression=True)
                shutil.copy(voc / "JPEGImages" / f"{name}.jpg", sbd / "img")
        for path, names in (
            (lists / "train.txt", train),
            (lists / "val.txt", val),
            (sbd / "train.txt", (val[0], *rest[1:])),
            (sbd / "val.txt", (rest[0], train[0])),
        ):
            path.write_text("".join(f"{name}\n" for name in names))
        return voc, sbd

    return make


@pytest.fixture(scope="session")
def shared():
    """The folder of real data and checkpoints beside the checkout."""
    if not (SHARED / "checkpoints" / "camvid_upernet_r18.pth").is_file() or not (SHARED / "data" / "camvid").is_dir():
        pytest.skip("there is no folder 'shared' with data/camvid and checkpoints beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def gpu():
    """This machine's GPU."""
    from segdeploy.runtime.backends.tensorrt_flavour import local_gpu

    found = local_gpu()
    if found is None:
        pytest.skip("this machine has no NVIDIA GPU")
    return found


@pytest.fixture(scope="session")
def no_gpu():
    """A machine without a GPU."""
    from segdeploy.runtime.backends.tensorrt_flavour import local_gpu

    if local_gpu() is not None:
        pytest.skip("this machine has an NVIDIA GPU")


@pytest.fixture(scope="session")
def one_thread():
    """Models this small run fastest on one thread; on several, beside other jobs, they mostly wait for one another."""
    import torch

    from segdeploy.runtime import open as opening

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "usable_cpus", lambda: 1)
        yield


@pytest.fixture(scope="session")
def labelled_root(tmp_path_factory):
    """Six labelled pictures of different sizes in mmseg's layout."""
    root = tmp_path_factory.mktemp("labelled")
    random = np.random.default_rng(5)
    for part in ("img_dir", "ann_dir"):
        (root / part / "val").mkdir(parents=True)
    for index, (height, width) in enumerate(IMAGE_SIZES):
        image, label = shapes_image(random, height, width)
        cv2.imwrite(str(root / "img_dir" / "val" / f"{index}.png"), image[..., ::-1])
        cv2.imwrite(str(root / "ann_dir" / "val" / f"{index}.png"), label)
    return root


@pytest.fixture(scope="session")
def images_folder(labelled_root):
    """The pictures of the labelled set."""
    return labelled_root / "img_dir" / "val"


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


@pytest.fixture(scope="session", params=WAYS_TO_PREDICT)
def way_to_predict(request, random_variant):
    """A checkpoint of each of ``WAYS_TO_PREDICT``, and the model as mmseg loads it."""
    changes = dict(WAYS_TO_PREDICT[request.param])
    if "val_dataloader__dataset" in changes:
        changes["test_dataloader__dataset"] = changes["val_dataloader__dataset"]
    return random_variant(request.param, **changes)


@pytest.fixture(scope="session")
def checkpoint_path(config_values, tmp_path_factory, one_thread):
    """A checkpoint with the layout of MMEngine's, trained for some seconds so that its masks have regions."""
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
    path = tmp_path_factory.mktemp("run") / "tiny.pth"
    torch.save({"meta": meta, "state_dict": model.state_dict()}, path)
    return path


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
def eager(checkpoint_path):
    """The reference session of the tiny checkpoint."""
    from segdeploy.runtime import open_session
    from segdeploy.runtime.open import eager_artifact

    with open_session(eager_artifact(checkpoint_path), "cpu") as session:
        yield session


@pytest.fixture(scope="session")
def mmseg_model(checkpoint_path):
    """The tiny model as mmseg itself loads it, by none of segdeploy's code."""
    import torch
    from mmengine.config import Config
    from mmengine.model import revert_sync_batchnorm

    from segdeploy.models.packages import load_mmseg

    load_mmseg()
    from mmseg.apis import init_model

    text = torch.load(checkpoint_path, weights_only=True)["meta"]["cfg"]
    return revert_sync_batchnorm(init_model(Config.fromstring(text, ".py"), str(checkpoint_path), device="cpu"))


@pytest.fixture(scope="session")
def run_mmseg(tmp_path_factory, one_thread):
    """mmseg's own Runner.test() on a checkpoint with the config inside it: {aAcc, mIoU, mAcc}, rounded to two digits.

    With a pipeline, as mmseg's tools/test.py --tta does it.
    """

    def run(path, tta_pipeline=None, **dataset):
        import torch
        from mmengine.config import Config
        from mmengine.runner import Runner

        from segdeploy.models.packages import load_mmseg

        load_mmseg()
        # Made by these tests: history buffers and all may be unpickled.
        config = Config.fromstring(torch.load(path, weights_only=False)["meta"]["cfg"], ".py")
        loader = config.test_dataloader
        loader.update(num_workers=0, persistent_workers=False)
        given = {"data_prefix": {"img_path": "img_dir/val", "seg_map_path": "ann_dir/val"}} | dataset
        loader.dataset.update({key: str(v) if key == "data_root" else v for key, v in given.items()})
        if tta_pipeline is not None:
            loader.dataset.pipeline = tta_pipeline
            config.model = {"type": "SegTTAModel", "module": config.model}
        runner = Runner(
            model=config.model,
            work_dir=str(tmp_path_factory.mktemp("mmseg")),
            test_dataloader=loader,
            test_evaluator=config.test_evaluator,
            test_cfg={"type": "TestLoop"},
            default_hooks={"logger": None},
            load_from=str(path),
            default_scope="mmseg",
            log_level="ERROR",
            experiment_name=f"test_{path.stem}",
        )
        return dict(runner.test())

    return run


@pytest.fixture(scope="session")
def runner_scores(run_mmseg, checkpoint_path):
    """What mmseg says of the tiny checkpoint on the labelled pictures."""
    return run_mmseg(checkpoint_path)


@pytest.fixture(scope="session")
def make_manifest():
    """Makes manifests by hand: any field can be given."""
    import msgspec

    from segdeploy.artifact import manifest as m

    axes = (m.Bounds(min=1, opt=1, max=4), m.Bounds(min=8, opt=16, max=64), m.Bounds(min=8, opt=24, max=64), 3)
    whole = m.Manifest(
        schema=1,
        name="hand",
        format="onnx",
        precision="fp32",
        files=(),
        input=m.InputSpec(name="image", dtype="uint8", layout="NHWC", shape=axes),
        outputs=(
            m.OutputSpec(name="mask", dtype="uint8", layout="NHW"),
            m.OutputSpec(name="logits", dtype="float32", layout="NKhw"),
        ),
        preprocess=m.Preprocess(color="rgb", mean=(1.0, 2.0, 3.0), std=(1.0,) * 3, resize=m.Resize(mode="none")),
        postprocess=m.Postprocess(resize="bilinear", align_corners=False, reduce="argmax"),
        inference=m.Inference(mode="whole"),
        classes=("a", "b", "c"),
        palette=((0, 0, 0), (9, 0, 0), (0, 9, 0)),
        ignore_index=255,
        reduce_zero_label=False,
        lineage=m.Lineage(checkpoint_sha256="c" * 64, config_sha256="d" * 64),
        toolchain=m.Toolchain(segdeploy="0", python="3"),
    )
    return lambda **changes: msgspec.structs.replace(whole, **changes)


def _export(checkpoint_path, fmt, folder, targets=(), **shapes):
    from segdeploy.export.export import export_model
    from segdeploy.export.options import Options
    from segdeploy.export.shapes import choose_shapes
    from segdeploy.models.checkpoint import load_checkpoint

    chosen = choose_shapes(CROP, tensorrt=fmt == "tensorrt", **{"largest": "256x256", **shapes})
    options = Options(targets=("sm89",) if fmt == "tensorrt" else targets)
    return export_model(load_checkpoint(checkpoint_path), fmt, folder, name="tiny", shapes=chosen, options=options)


@pytest.fixture(scope="session")
def export_tiny(checkpoint_path):
    """Exports the tiny checkpoint: (format, folder, what choose_shapes takes) -> Artifact."""
    return lambda fmt, folder, **shapes: _export(checkpoint_path, fmt, folder, **shapes)


@pytest.fixture(scope="session")
def onnx_artifact(export_tiny, tmp_path_factory):
    """A dynamic ONNX artifact. Never changed by a test: those take ``copied``."""
    return export_tiny("onnx", tmp_path_factory.mktemp("exports") / "tiny" / "onnx-fp32")


@pytest.fixture(scope="session")
def torchscript_artifact(export_tiny, tmp_path_factory):
    """A dynamic TorchScript artifact."""
    return export_tiny("torchscript", tmp_path_factory.mktemp("exports") / "tiny" / "torchscript-fp32")


@pytest.fixture(scope="session")
def plain_code():
    """Lets AOTInductor write plain C++: of vector code it is as slow to make as everything else together."""
    inductor = pytest.importorskip("torch._inductor.config")
    if shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler, which AOTInductor needs")
    with inductor.patch({"cpp.simdlen": 1}):
        yield


@pytest.fixture(scope="session")
def pt2_artifact(export_tiny, tmp_path_factory, plain_code):
    """A dynamic package, compiled for the CPU."""
    return export_tiny("pt2", tmp_path_factory.mktemp("exports") / "tiny" / "pt2-fp32", largest="1024x1024")


@pytest.fixture(scope="session")
def tensorrt_artifact(export_tiny, tmp_path_factory):
    """A real engine for sm89, compiled without a GPU."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx, which compiles engines without a GPU, is not installed")
    return export_tiny("tensorrt", tmp_path_factory.mktemp("exports") / "tiny" / "tensorrt-fp32")


@pytest.fixture
def copied(tmp_path):
    """Copies an artifact, so that a test may change it."""
    from segdeploy.artifact.folder import open_artifact

    def copy_artifact(artifact, name="copy"):
        return open_artifact(Path(shutil.copytree(artifact.folder, tmp_path / name)))

    return copy_artifact


@pytest.fixture(scope="session")
def static_onnx(checkpoint_path, tmp_path_factory):
    """A static ONNX artifact of another opset than the default."""
    from segdeploy.export.export import export_model
    from segdeploy.export.options import Options
    from segdeploy.export.shapes import Shapes
    from segdeploy.models.checkpoint import load_checkpoint

    folder = tmp_path_factory.mktemp("exports") / "tiny" / "static"
    checkpoint = load_checkpoint(checkpoint_path)
    return export_model(checkpoint, "onnx", folder, name="tiny", shapes=Shapes(1, 64, 96), options=Options(opset=20))


@pytest.fixture(scope="session")
def planted_onnx(onnx_artifact, tmp_path_factory):
    """Makes float32 ONNX files that compute the same function as the tiny model's, with one channel scaled up inside.

    What goes into ``decode_head.conv_seg`` then has an outlier: (factor) -> path. ReLU lets a positive factor through, and
    conv_seg divides by it.
    """
    import numpy as np
    import onnx
    from onnx import numpy_helper

    before, behind = "decode_head.fpn_bottleneck.conv.weight", "decode_head.conv_seg.weight"

    def plant(factor):
        model = onnx.load(onnx_artifact.model_path)
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        arrays = {name: numpy_helper.to_array(tensors[name]).copy() for name in (before, f"{before}_bias", behind)}
        channel = int(np.argmax(arrays[f"{before}_bias"]))  # one that is alive behind the ReLU
        arrays[before][channel] *= factor
        arrays[f"{before}_bias"][channel] *= factor
        arrays[behind][:, channel] /= factor
        for name, values in arrays.items():
            tensors[name].CopyFrom(numpy_helper.from_array(values, name))
        path = tmp_path_factory.mktemp("planted") / "model.onnx"
        onnx.save(model, path)
        return path

    return plant


@pytest.fixture
def exported_before(onnx_artifact, monkeypatch):
    """Lets torch.onnx's part of an export be the tiny model's, which was made before: what follows it is real."""
    from segdeploy.export import onnx as exporting

    data = onnx_artifact.model_path.read_bytes()
    monkeypatch.setattr(exporting, "_export_fp32", lambda graph, manifest, path, opset: path.write_bytes(data))


@pytest.fixture
def lowered(onnx_artifact, tmp_path):
    """Converts a float32 ONNX file: (precision, source, format) -> (the new file, its manifest)."""
    import msgspec

    from segdeploy.export.options import Calibration
    from segdeploy.export.precision import convert

    def lower(precision, source=None, fmt="onnx", **wanted):
        folder = tmp_path / f"{precision}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        path = folder / "model.onnx"
        path.write_bytes((source or onnx_artifact.model_path).read_bytes())
        manifest = msgspec.structs.replace(onnx_artifact.manifest, precision=precision, format=fmt)
        return path, convert(path, manifest, Calibration(**wanted))

    return lower
