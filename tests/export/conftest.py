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
