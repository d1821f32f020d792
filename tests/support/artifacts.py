"""Manifests by hand, and artifacts exported from the tiny checkpoint."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from support.data import CROP


@pytest.fixture(scope="session")
def make_manifest():
    """Makes manifests by hand: any field can be given."""
    import msgspec

    from segdeploy.artifact import manifest as m

    axes = (m.Bounds(min=1, opt=1, max=4), m.Bounds(min=8, opt=16, max=64), m.Bounds(min=8, opt=24, max=64), 3)
    whole = m.Manifest(
        schema=m.SCHEMA,
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
    from segdeploy.export.exporter import find_exporter
    from segdeploy.export.options import Options
    from segdeploy.export.shapes import choose_shapes
    from segdeploy.models.checkpoint import load_checkpoint

    chosen = choose_shapes(CROP, limits=find_exporter(fmt).limits, **{"largest": "256x256", **shapes})
    options = Options(targets=("sm89",) if fmt == "tensorrt" else targets)
    return export_model(load_checkpoint(checkpoint_path), fmt, folder, name="tiny", shapes=chosen, options=options)


@pytest.fixture(scope="session")
def export_tiny(checkpoint_path):
    """Exports the tiny checkpoint: (format, folder, what choose_shapes takes) -> Artifact."""
    return lambda fmt, folder, **shapes: _export(checkpoint_path, fmt, folder, **shapes)


@pytest.fixture(scope="session")
def artifact_once(made_once, tmp_path_factory):
    """An artifact of the tiny model, exported once a run: (label, what exports to a folder) -> this worker's copy of it.

    A copy, because a verdict is written into the manifest: what one worker's tests verify, another's must not see.
    """
    from segdeploy.artifact.folder import open_artifact

    def make(label, export):
        made = made_once(f"artifact-{label}", lambda folder: export(folder / label))
        return open_artifact(Path(shutil.copytree(made / label, tmp_path_factory.mktemp("exports") / "tiny" / label)))

    return make


@pytest.fixture(scope="session")
def onnx_artifact(export_tiny, artifact_once):
    """A dynamic ONNX artifact. Never changed by a test: those take ``copied``."""
    return artifact_once("onnx-fp32", lambda folder: export_tiny("onnx", folder))


@pytest.fixture(scope="session")
def torchscript_artifact(export_tiny, artifact_once):
    """A dynamic TorchScript artifact."""
    return artifact_once("torchscript-fp32", lambda folder: export_tiny("torchscript", folder))


@pytest.fixture(scope="session")
def export_through(export_tiny, onnx_artifact):
    """``export_tiny`` of a format that is made through ONNX: torch.onnx's part is the artifact that is there already."""

    def export(fmt, folder):
        with pytest.MonkeyPatch.context() as patch:
            _use_onnx(patch, onnx_artifact)
            return export_tiny(fmt, folder)

    return export


def _use_onnx(patch, artifact):
    from segdeploy.export import onnx as exporting

    data = artifact.model_path.read_bytes()
    patch.setattr(exporting, "_export_fp32", lambda graph, manifest, path, opset: path.write_bytes(data))


@pytest.fixture(scope="session")
def openvino_artifact(export_through, artifact_once):
    """A dynamic OpenVINO artifact."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    return artifact_once("openvino-fp32", lambda folder: export_through("openvino", folder))


@pytest.fixture(scope="session")
def plain_code():
    """Lets AOTInductor write plain C++: of vector code it is as slow to make as everything else together."""
    inductor = pytest.importorskip("torch._inductor.config")
    if shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler, which AOTInductor needs")
    with inductor.patch({"cpp.simdlen": 1}):
        yield


@pytest.fixture(scope="session")
def pt2_artifact(export_tiny, artifact_once, plain_code):
    """A dynamic package, compiled for the CPU."""
    return artifact_once("pt2-fp32", lambda folder: export_tiny("pt2", folder, largest="1024x1024"))


@pytest.fixture(scope="session")
def tensorrt_artifact(export_through, artifact_once):
    """A real engine for sm89, compiled without a GPU."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx, which compiles engines without a GPU, is not installed")
    return artifact_once("tensorrt-fp32", lambda folder: export_through("tensorrt", folder))


@pytest.fixture(scope="session")
def static_onnx(checkpoint_path, artifact_once):
    """A static ONNX artifact of another opset than the default."""
    from segdeploy.export.export import export_model
    from segdeploy.export.options import Options
    from segdeploy.export.shapes import Shapes
    from segdeploy.models.checkpoint import load_checkpoint

    def export(folder):
        checkpoint = load_checkpoint(checkpoint_path)
        export_model(checkpoint, "onnx", folder, name="tiny", shapes=Shapes(1, 64, 96), options=Options(opset=20))

    return artifact_once("static", export)


@pytest.fixture
def copied(tmp_path):
    """Copies an artifact, so that a test may change it."""
    from segdeploy.artifact.folder import open_artifact

    def copy_artifact(artifact, name="copy"):
        return open_artifact(Path(shutil.copytree(artifact.folder, tmp_path / name)))

    return copy_artifact


@pytest.fixture(scope="session")
def planted_onnx(onnx_artifact, tmp_path_factory):
    """Makes float32 ONNX files that compute the same function as the tiny model's, with one channel scaled up inside.

    What goes into ``decode_head.conv_seg`` then has an outlier: (factor) -> path. ReLU lets a positive factor through, and
    conv_seg divides by it.
    """
    import numpy as np
    import onnx
    from onnx import numpy_helper

    before, behind = "decode_head.fpn_bottleneck.conv", "decode_head.conv_seg.weight"

    def plant(factor):
        model = onnx.load(onnx_artifact.model_path)
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        arrays = {name: numpy_helper.to_array(tensors[name]).copy() for name in tensors if name.rpartition(".")[0] == before}
        channel = int(np.argmax(arrays[f"{before}.bias"]))  # one that is alive behind the ReLU
        count = len(arrays[f"{before}.bias"])
        for values in arrays.values():  # of taps that are outputs of their own, all of the channel's
            taps = len(values) // count
            values[channel * taps : (channel + 1) * taps] *= factor
        arrays[behind] = numpy_helper.to_array(tensors[behind]).copy()
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
    _use_onnx(monkeypatch, onnx_artifact)


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
