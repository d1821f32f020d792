"""A tiny model and data set, and reports made by hand."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from segdeploy.artifact.folder import write_artifact
from segdeploy.artifact.manifest import SCHEMA as MANIFEST_SCHEMA
from segdeploy.artifact.manifest import (
    Bounds,
    Inference,
    InputSpec,
    Lineage,
    Manifest,
    OutputSpec,
    Postprocess,
    Preprocess,
    Resize,
    Toolchain,
)
from segdeploy.bench.result import (
    SCHEMA,
    BenchReport,
    BenchRow,
    BenchSettings,
    DataSet,
    Environment,
    Load,
    Timing,
)
from segdeploy.images.dataset import find_samples
from segdeploy.scores.confusion_matrix import ClassScore, Evaluation

CLASSES = ("dark", "grey", "bright")


def write_tiny_onnx(folder: Path) -> None:
    """Three classes by brightness: logits are linear in the mean of 4x4 pixels, with no part of segdeploy in it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.stack([np.full((3, 4, 4), w / 48) for w in (-1.0, 0.0, 1.0)]).astype(np.float32)
    bias = np.array([80.0, 0.0, -160.0], np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "weight", "bias"], ["logits"], strides=[4, 4]),
        helper.make_node("Shape", ["nchw"], ["size"], start=2),
        helper.make_node("Shape", ["logits"], ["head"], start=0, end=2),
        helper.make_node("Concat", ["head", "size"], ["sizes"], axis=0),
        helper.make_node("Resize", ["logits", "", "", "sizes"], ["full"], mode="linear"),
        helper.make_node("ArgMax", ["full"], ["labels"], axis=1, keepdims=0),
        helper.make_node("Cast", ["labels"], ["mask"], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [
            helper.make_tensor_value_info("mask", TensorProto.UINT8, ["N", "H", "W"]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3, "h", "w"]),
        ],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")


def manifest(name="tiny", fmt="onnx", classes=CLASSES, **changes):
    axes = (Bounds(min=1, opt=1, max=8), Bounds(min=16, opt=32, max=256), Bounds(min=16, opt=48, max=256), 3)
    whole = Manifest(
        schema=MANIFEST_SCHEMA,
        name=name,
        format=fmt,
        precision="fp32",
        files=(),
        input=InputSpec(name="image", dtype="uint8", layout="NHWC", shape=axes),
        outputs=(
            OutputSpec(name="mask", dtype="uint8", layout="NHW"),
            OutputSpec(name="logits", dtype="float32", layout="NKhw"),
        ),
        preprocess=Preprocess(color="rgb", mean=(0.0,) * 3, std=(1.0,) * 3, resize=Resize(mode="none")),
        postprocess=Postprocess(resize="bilinear", align_corners=False, reduce="argmax"),
        inference=Inference(mode="whole"),
        classes=classes,
        palette=tuple((80 * i, 0, 0) for i in range(len(classes))),
        ignore_index=255,
        reduce_zero_label=False,
        lineage=Lineage(checkpoint_sha256="c" * 64, config_sha256="d" * 64),
        toolchain=Toolchain(segdeploy="0", python="3"),
    )
    return msgspec.structs.replace(whole, **changes)


@pytest.fixture
def tiny_artifact(tmp_path):
    def make(name="tiny", **changes):
        def write(folder):
            write_tiny_onnx(folder)
            return manifest(name, **changes)

        return write_artifact(tmp_path / "exports" / name / "onnx-fp32", write)

    return make


@pytest.fixture
def foreign_engine(tmp_path):
    """An artifact that nothing on any machine can run: an engine of the wrong bytes."""

    def make(name="tiny"):
        def write(folder):
            (folder / "model.engine").write_bytes(b"not an engine")
            return manifest(name, "tensorrt")

        return write_artifact(tmp_path / "exports" / name / "tensorrt-fp32", write)

    return make


@pytest.fixture
def data_root(tmp_path):
    """Four noisy pictures with labels by brightness, the void among them."""
    rng = np.random.default_rng(7)
    for part in ("img_dir", "ann_dir"):
        (tmp_path / "data" / part / "val").mkdir(parents=True)
    for index in range(4):
        image = rng.integers(0, 256, (8, 12, 3), np.uint8).repeat(5, 0).repeat(5, 1)
        label = np.digitize(image.mean(2), [80, 160]).astype(np.uint8)
        label[:3] = 255
        Image.fromarray(image).save(tmp_path / "data" / "img_dir" / "val" / f"{index}.png")
        Image.fromarray(label).save(tmp_path / "data" / "ann_dir" / "val" / f"{index}.png")
    return tmp_path / "data"


@pytest.fixture
def samples(data_root):
    return find_samples(data_root, "val")


def evaluation(miou=50.0, classes=CLASSES):
    scores = tuple(ClassScore(name, miou, miou, 100) for name in classes)
    return Evaluation(miou=miou, macc=miou, aacc=miou, classes=scores, images=4)


def timing(run_ms):
    values = tuple(float(v) for v in run_ms)
    return Timing(
        load_ms=100.0,
        run_ms=values,
        execute_ms=values,
        warmup_run_ms=(9.0,),
        warmup_execute_ms=(9.0,),
        peak_rss_bytes=50_000_000,
    )


@pytest.fixture
def row():
    """A measured row, or, with a reason, one that was not run."""

    def make(backend="onnx", run_ms=(10.0,) * 20, reason=None, miou=50.0, **changes):
        common = {
            "model": "tiny",
            "backend": backend,
            "precision": "fp32",
            "folder": f"exports/tiny/{backend}-fp32",
            "checkpoint_sha256": "c" * 64,
            "shape": (1, 32, 48),
            "parity": "reference" if backend == "eager" else "passed",
        }
        if reason is not None:
            return BenchRow(**common | {"status": "not run", "reason": reason} | changes)
        measured = {
            "status": "measured",
            "device": "cpu",
            "timing": timing(run_ms),
            "size_bytes": 1000,
            "evaluation": evaluation(miou),
        }
        return BenchRow(**common | measured | changes)

    return make


@pytest.fixture
def report():
    def make(*rows, other_cpus=0.1, cpus=2, settings=None, **changes):
        environment = Environment(
            cpu="Some CPU",
            cpus=2,
            memory_bytes=1 << 34,
            governor=None,
            gpus=(),
            os="Linux 6",
            python="3.11.0",
            packages={"numpy": "2.0"},
            load=Load(before=0.1, after=0.2, other_cpus=other_cpus, cpus=cpus),
        )
        return BenchReport(
            schema=SCHEMA,
            started="2025-01-01T00:00:00+00:00",
            command="segdeploy bench",
            environment=environment,
            settings=settings or BenchSettings(threads=2, iterations=20),
            data=DataSet(name="data (val)", images=4, total=4),
            rows=rows,
            **changes,
        )

    return make
