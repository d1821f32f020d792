import importlib
import subprocess
import types

import pytest

from segdeploy.base.errors import MissingExtraError
from segdeploy.runtime.backends import tensorrt_flavour as tensorrt
from segdeploy.runtime.backends.tensorrt_flavour import Gpu, import_tensorrt, local_gpu, messages


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


@pytest.mark.parametrize(
    ("answer", "gpu"),
    [
        ("NVIDIA L4, 8.9\n", Gpu("NVIDIA L4", "sm89")),
        ("NVIDIA H200, 9.0\nNVIDIA L4, 8.9\n", Gpu("NVIDIA H200", "sm90")),
        ("RTX, 12.0\n", Gpu("RTX", "sm120")),
        ("Odd, name, 8.6\n", Gpu("Odd, name", "sm86")),
        ("", None),
        ("No devices were found\n", None),
    ],
)
def test_the_gpu_as_the_driver_names_it(monkeypatch, answer, gpu):
    """Name and compute capability of the first GPU, or none."""
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: types.SimpleNamespace(stdout=answer))
    assert local_gpu() == gpu


@pytest.mark.parametrize(
    ("visible", "asked"), [(None, None), ("1,0", "--id=1"), ("GPU-ab12", "--id=GPU-ab12"), ("", "--id=-1"), ("-1", "--id=-1")]
)
def test_the_gpu_that_cuda_would_take(monkeypatch, visible, asked):
    """CUDA_VISIBLE_DEVICES says which GPU is CUDA's first, or that there is none; the driver's tool does not look at it."""
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    seen = []

    def run(command, **_):
        seen.extend(word for word in command if word.startswith("--id"))
        return types.SimpleNamespace(stdout="")

    monkeypatch.setattr(subprocess, "run", run)
    local_gpu()
    assert seen == ([asked] if asked else [])


@pytest.mark.parametrize(
    "error", [FileNotFoundError(), subprocess.TimeoutExpired("x", 1), subprocess.CalledProcessError(9, "x")]
)
def test_no_driver(monkeypatch, error):
    """A missing, hanging or failing nvidia-smi means that there is no GPU."""

    def run(*a, **k):
        raise error

    monkeypatch.setattr(subprocess, "run", run)
    assert local_gpu() is None


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
