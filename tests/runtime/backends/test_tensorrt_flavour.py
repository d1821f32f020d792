import importlib
import types

import pytest

from segdeploy.base.errors import MissingExtraError
from segdeploy.runtime.backends import tensorrt_flavour as tensorrt
from segdeploy.runtime.backends.tensorrt_flavour import import_tensorrt, messages


@pytest.fixture
def installed(monkeypatch):
    """Pretends that only these TensorRTs are installed."""

    def install(*names):
        def fake(name):
            if name not in names:
                raise ImportError(name)
            return types.SimpleNamespace(__name__=name, __version__="9.9")

        monkeypatch.setattr(tensorrt.importlib, "import_module", fake)

    return install


@pytest.mark.parametrize(
    ("names", "prefer_rtx", "only", "chosen"),
    [
        (("tensorrt", "tensorrt_rtx"), False, None, "tensorrt"),
        (("tensorrt", "tensorrt_rtx"), True, None, "tensorrt_rtx"),
        (("tensorrt",), True, None, "tensorrt"),
        (("tensorrt_rtx",), False, None, "tensorrt_rtx"),
        (("tensorrt", "tensorrt_rtx"), False, "tensorrt_rtx", "tensorrt_rtx"),
    ],
)
def test_which_one(installed, names, prefer_rtx, only, chosen):
    """The preferred one where both are there, the other where only that is, and exactly the one that an engine needs."""
    installed(*names)
    assert import_tensorrt(prefer_rtx=prefer_rtx, only=only).name == chosen


@pytest.mark.parametrize(
    ("names", "prefer_rtx", "only", "extra"),
    [
        ((), False, None, "tensorrt"),
        ((), True, None, "tensorrt-rtx"),
        (("tensorrt",), True, "tensorrt_rtx", "tensorrt-rtx"),
        (("tensorrt_rtx",), False, "tensorrt", "tensorrt"),
    ],
)
def test_what_to_install(installed, names, prefer_rtx, only, extra):
    """The engines are not interchangeable: the other flavour is no substitute, and the extra is named."""
    installed(*names)
    with pytest.raises(MissingExtraError) as caught:
        import_tensorrt(prefer_rtx=prefer_rtx, only=only)
    assert caught.value.extra == extra


def test_messages_are_collected():
    """Errors that the real TensorRT logs are kept and not printed; lesser ones are dropped."""
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    with messages(trt) as log:
        assert log.last == "no message from TensorRT"
        log.logger.log(trt.ILogger.WARNING, "a warning")
        log.logger.log(trt.ILogger.ERROR, "an error")
        log.logger.log(trt.ILogger.ERROR, "catchCudaError (cudaError 35: driver version is insufficient)")
        assert log.last == "an error"
        builder = trt.Builder(log.logger)  # each of these must outlive what was made of it
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, log.logger)
        assert not parser.parse(b"not ONNX")
        assert len(log.errors) > 1


def test_a_library_that_does_not_load_is_not_installed(monkeypatch):
    """A TensorRT whose driver library is missing raises ImportError, and counts as absent."""
    load = importlib.import_module

    def fake(name):
        if "tensorrt" in name:
            raise ImportError("libcuda.so.1: cannot open shared object file")
        return load(name)

    monkeypatch.setattr(tensorrt.importlib, "import_module", fake)
    with pytest.raises(MissingExtraError):
        import_tensorrt(prefer_rtx=True)
