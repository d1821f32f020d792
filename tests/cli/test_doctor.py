from segdeploy.runtime.backends import tensorrt_flavour as tensorrt
from segdeploy.runtime.backends.tensorrt_flavour import Gpu


def test_without_a_gpu(main, monkeypatch):
    """What works and what does not, and that there is no GPU; finding something missing is no failure."""
    monkeypatch.setattr(tensorrt, "local_gpu", lambda: None)
    ended = main("doctor")
    assert ended.status == 0, ended.err
    assert "GPU: none" in ended.out
    for purpose in ("train, eager reference", "export ONNX", "run ONNX", "run TensorRT", "serve with TorchServe"):
        (line,) = [line for line in ended.out.splitlines() if f" {purpose} " in line]
        assert " yes " in line or " no " in line
    assert "no NVIDIA GPU" in ended.out


def test_with_a_gpu(main, monkeypatch):
    """The GPU's name and architecture are shown: an engine is bound to them."""
    monkeypatch.setattr(tensorrt, "local_gpu", lambda: Gpu("NVIDIA L4", "sm89"))
    ended = main("doctor")
    assert ended.status == 0
    assert "GPU: NVIDIA L4 (sm89)" in ended.out
