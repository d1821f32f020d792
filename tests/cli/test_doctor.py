import importlib.util

import pytest

from segdeploy.base import capability, machine
from segdeploy.base.machine import Gpu
from segdeploy.cli.doctor import capabilities
from segdeploy.export import pt2
from segdeploy.runtime.backends import onnx

L4 = Gpu("NVIDIA L4", "sm89")


def by_purpose(gpu=None):
    return {one.purpose: one for one in capabilities(gpu)}


@pytest.fixture
def without(monkeypatch):
    """Pretends that packages are missing, or raise when they are imported."""
    load = importlib.import_module

    def pretend(*names, error=None):
        def fake(name):
            if name.split(".")[0] in names:
                raise error or ModuleNotFoundError(f"No module named '{name}'", name=name)
            return load(name)

        monkeypatch.setattr(capability.importlib, "import_module", fake)

    return pretend


def test_it_says_what_is_so():
    """On this machine: a purpose works exactly where its packages are found."""
    found = by_purpose()
    for purpose, package in (("run ONNX", "onnxruntime"), ("run TorchScript", "torch"), ("export TensorRT", "tensorrt_rtx")):
        assert found[purpose].works == (importlib.util.find_spec(package) is not None), purpose
    assert not found["run TensorRT"].works
    assert found["run TensorRT"].found == "no NVIDIA GPU"
    assert all(bool(one.remedy) != one.works for one in found.values() if one.purpose != "run ONNX")


def test_a_compiler_is_part_of_it(monkeypatch):
    """Packages are made by a C++ compiler: without one that purpose does not work, and running them still does."""
    monkeypatch.setattr(pt2, "cpp_compiler", lambda: None)
    found = by_purpose()
    assert not found["export PT2 (AOTInductor)"].works
    assert "g++" in found["export PT2 (AOTInductor)"].remedy
    assert found["run PT2"].works


@pytest.mark.parametrize(
    ("package", "purpose", "extra"),
    [
        ("torch", "train", "train"),
        ("mmseg", "run the checkpoint", "train"),
        ("mmseg", "export TorchScript", "export"),
        ("onnxscript", "export ONNX", "export"),
        ("onnxruntime", "run ONNX", "onnx"),
        ("ts", "serve with TorchServe", "serve"),
        ("httpx", "ask a server (--url)", "client"),
        ("matplotlib", "benchmark report", "bench"),
    ],
)
def test_what_is_missing_is_named(without, package, purpose, extra):
    """A missing package is named beside the extra that brings it; the rest is not affected."""
    without(package)
    one = by_purpose()[purpose]
    assert not one.works
    assert one.found == f"{package} is not installed"
    assert f"segdeploy[{extra}]" in one.remedy


def test_a_broken_package(without):
    """A package that raises anything at all on import is reported in one line."""
    without("matplotlib", error=RuntimeError("numpy 1 was expected\nmore"))
    one = by_purpose()["benchmark report"]
    assert not one.works
    assert one.found == "matplotlib does not import: numpy 1 was expected"


def test_a_gpu_that_onnxruntime_cannot_use():
    """A GPU beside a CPU-only onnxruntime works, and the way to use it is told."""
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime can use a GPU")
    one = by_purpose(L4)["run ONNX"]
    assert one.works
    assert "onnx-gpu" in one.remedy


def test_both_onnxruntimes(monkeypatch):
    """Two distributions that own the same files are a fault, and said so."""
    monkeypatch.setattr(onnx, "version_of", lambda name: "1.0")
    one = by_purpose()["run ONNX"]
    assert not one.works
    assert "uninstall both" in one.remedy


def test_no_tensorrt(without):
    """Without any TensorRT, the one that compiles without a GPU is what to install."""
    without("tensorrt", "tensorrt_rtx")
    found = by_purpose()
    assert not found["export TensorRT"].works
    assert "tensorrt-rtx" in found["export TensorRT"].remedy


def test_tensorrt_with_a_gpu():
    """With a GPU, TensorRT and cuda-python, engines run."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    assert by_purpose(L4)["run TensorRT"].works


def test_tensorrt_with_a_gpu_and_no_cuda_bindings(without):
    """A GPU and TensorRT without cuda-python: the row says no, and what to install."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    without("cuda")
    one = by_purpose(L4)["run TensorRT"]
    assert not one.works
    assert "cuda" in one.found
    assert "pip install" in one.remedy


def test_without_a_gpu(main, monkeypatch):
    """What works and what does not, and that there is no GPU; finding something missing is no failure."""
    monkeypatch.setattr(machine, "local_gpu", lambda: None)
    ended = main("doctor")
    assert ended.status == 0, ended.err
    assert "GPU: none" in ended.out
    for purpose in ("train", "run the checkpoint", "export ONNX", "run ONNX", "run TensorRT", "serve with TorchServe"):
        (line,) = [line for line in ended.out.splitlines() if f" {purpose} " in line]
        assert " yes " in line or " no " in line
    assert "no NVIDIA GPU" in ended.out


def test_with_a_gpu(main, monkeypatch):
    """The GPU's name and architecture are shown: an engine is bound to them."""
    monkeypatch.setattr(machine, "local_gpu", lambda: Gpu("NVIDIA L4", "sm89"))
    ended = main("doctor")
    assert ended.status == 0
    assert "GPU: NVIDIA L4 (sm89)" in ended.out
