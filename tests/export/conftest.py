import pytest


@pytest.fixture(scope="session")
def static_onnx(checkpoint_path, tmp_path_factory):
    """A static ONNX artifact of another opset than the default."""
    from segdeploy.core.checkpoint import load_checkpoint
    from segdeploy.export.export import export_model
    from segdeploy.export.options import Options
    from segdeploy.export.shapes import Shapes

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
