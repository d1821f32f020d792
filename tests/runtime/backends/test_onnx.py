"""What is onnxruntime's own of running ONNX files."""

import types

import pytest

from segdeploy.runtime import open_session

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("threads", [1, 3])
def test_threads(onnx_artifact, threads):
    """onnxruntime itself says that it uses as many threads as were asked for."""
    with open_session(onnx_artifact, "cpu", threads=threads) as session:
        assert session._session.get_session_options().intra_op_num_threads == threads


@pytest.mark.parametrize(("device", "cuda"), [("auto", True), ("cuda", True), ("cpu", False)])
def test_tf32_is_off(onnx_artifact, monkeypatch, device, cuda):
    """onnxruntime's CUDA provider, of which only the call is tested here, is told not to round fp32 to TF32."""
    import onnxruntime

    asked = {}

    def session(path, options, providers):
        asked["providers"] = providers
        names = [one if isinstance(one, str) else one[0] for one in providers]
        return types.SimpleNamespace(get_providers=lambda: names)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    open_session(onnx_artifact, device)
    first = [("CUDAExecutionProvider", {"use_tf32": "0"})] if cuda else []
    assert asked["providers"] == [*first, "CPUExecutionProvider"]
