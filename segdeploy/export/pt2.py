"""PT2: the deploy graph through torch.export and AOTInductor, as machine code for one kind of device in one package.

It is what PyTorch has instead of TorchScript. The package holds code that a C++ compiler (and on a GPU Triton) made, and is
bound to the version of torch, to the processor's vector instructions, and to the architecture of a GPU.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from segdeploy.artifact.axes import bounds
from segdeploy.artifact.manifest import Bounds, Manifest, Target
from segdeploy.base.capability import Capability, import_problem, named_versions
from segdeploy.base.errors import BackendError, ExportError
from segdeploy.base.machine import Gpu
from segdeploy.export.exporter import Exporter
from segdeploy.export.options import Options
from segdeploy.parity.tolerance import TOLERANCES
from segdeploy.runtime.backends.torch_device import compute_capability, cpp_compiler

if TYPE_CHECKING:
    import torch
    from torch._dynamo.exc import UserError

    from segdeploy.export.graph import DeployGraph

_DEVICES = ("cpu", "cuda")
_NO_VECTORS = "INVALID_VEC_ISA"  # AOTInductor's name for plain code


def check_compiler(options: Options) -> None:
    """Say before any work that there is no C++ compiler.

    Raises:
        BackendError: there is none.
    """
    del options
    if cpp_compiler() is None:
        raise BackendError(
            expected="a C++ compiler, which AOTInductor needs to make a .pt2 package",
            got="none on this machine",
            fix="install one (apt-get install g++), name it in the environment variable CXX, or use --to onnx",
        )


def write_pt2(graph: DeployGraph, manifest: Manifest, folder: Path, options: Options) -> Manifest:
    """Write ``model.pt2``.

    Raises:
        BackendError: the device that it is made for is unknown or not here.
        ExportError: the model cannot be captured or compiled.
    """
    import torch
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    from segdeploy.export.capture import example_input, export_error, quiet, refuse_custom_ops

    device = _device(options.targets)
    path = folder / "model.pt2"
    expected = f"a model that torch {torch.__version__} can compile ahead of time"
    try:
        with quiet("torch"), torch.no_grad(), torch.random.fork_rng(devices=[]):
            graph = graph.to(device)
            image = example_input(graph, manifest).to(device)
            program, narrowed = _captured(graph, image, manifest)
            refuse_custom_ops((node.target.name() for node in program.graph.nodes if _is_operator(node)), "pt2")
            aoti_compile_and_package(program, package_path=str(path), inductor_configs=_settings())
            package = aoti_load_package(str(path))
            if narrowed:
                _check_smallest(graph, package, manifest, device)
            made_for = package.get_metadata()
    except (ExportError, BackendError):
        raise
    except Exception as error:  # torch.export and the compiler raise some twenty unrelated types
        raise export_error(error, expected, "pt2") from error
    cpu = f"{made_for['AOTI_MACHINE']} {made_for['AOTI_CPU_ISA']}".removesuffix(f" {_NO_VECTORS}")
    target = Target(device=device, cpu=cpu)  # type: ignore[arg-type]  # _device() has checked it
    if device == "cuda":
        target = msgspec.structs.replace(target, gpu=torch.cuda.get_device_name(), compute_capability=compute_capability(torch))
    toolchain = msgspec.structs.replace(manifest.toolchain, cuda=torch.version.cuda if device == "cuda" else None)
    return msgspec.structs.replace(manifest, target=target, toolchain=toolchain)


def _device(targets: tuple[str, ...]) -> str:
    import torch

    wanted = targets or ("cpu",)
    if len(wanted) != 1 or wanted[0] not in _DEVICES:
        raise BackendError(
            expected="--target cpu or --target cuda for pt2", got=", ".join(wanted), fix="choose one; cpu is the default"
        )
    if wanted[0] == "cuda" and not torch.cuda.is_available():
        raise BackendError(
            expected="a CUDA device to compile a pt2 package for",
            got="none that PyTorch can see",
            fix="run it on the GPU machine, or leave --target cuda out",
        )
    return wanted[0]


def _captured(graph: DeployGraph, image: torch.Tensor, manifest: Manifest) -> tuple[Any, bool]:
    """The exported program, and whether torch.export narrowed the range of an axis.

    It asks of many sizes whether they are 1, to choose an order in memory or to broadcast, and takes the answer for a
    demand: of 32 pixels a stride of 32 leaves one, so that it wants 33. The values are the same either way.
    """
    import torch
    from torch._dynamo.exc import UserError

    from segdeploy.export.capture import dynamic_axes

    shapes: Any = {"image": dynamic_axes(graph, manifest)}
    narrowed = False
    try:
        program = torch.export.export(graph, (image,), dynamic_shapes=shapes, prefer_deferred_runtime_asserts_over_guards=True)
    except UserError as error:
        refined = _refined(error, shapes)
        program = torch.export.export(graph, (image,), dynamic_shapes=refined, prefer_deferred_runtime_asserts_over_guards=True)
        narrowed = True
    _check_free(program, manifest)
    return program, narrowed


def _refined(error: UserError, shapes: Any) -> Any:
    """The ranges that torch.export proposes; where it proposes none, what it found wrong is raised again."""
    import torch

    try:
        return torch.export.dynamic_shapes.refine_dynamic_shapes_from_suggested_fixes(error.msg, shapes)
    except Exception:  # noqa: BLE001  it looks for the proposals in the text, and fails in many ways where there are none
        raise error from None


def _check_free(program: Any, manifest: Manifest) -> None:
    """An axis that was tied to the example's size, or to another axis, would be wrong at every other."""
    name = program.graph_signature.user_inputs[0]
    taken = next(node.meta["val"].shape for node in program.graph.nodes if node.name == name)
    dynamic = [index for index, axis in enumerate(manifest.input.shape) if isinstance(axis, Bounds)]
    sizes = [str(taken[index]) for index in dynamic]
    if any(size.isdecimal() for size in sizes) or len(set(sizes)) < len(sizes):
        found = ", ".join(f"{'NHW'[index]} = {size}" for index, size in zip(dynamic, sizes, strict=True))
        raise ExportError(
            expected="a model whose N, H and W can vary on their own",
            got=f"{found} after torch.export",
            fix="fix the size with --shape HxW, or export to onnx",
        )


def _settings() -> dict[str, Any]:
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    settings: dict[str, Any] = {
        "freezing": True,  # folds batch norm, and packs the weights as oneDNN wants them
        "cpp.dynamic_threads": True,  # else the number of threads of this process is compiled in
        "scalar_asserts": False,  # of the ranges that ``_captured`` speaks of
    }
    if platform.machine() == "x86_64":
        # Left to itself, AOTInductor compiles for every instruction of the machine at hand, and does not say so in the
        # package. This is the least that a processor with AVX2 has; wider vectors are asked for beside it, and recorded.
        settings["cpp.march"] = "x86-64-v3" if pick_vec_isa() else "x86-64"
    return settings


def _check_smallest(graph: DeployGraph, package: Any, manifest: Manifest, device: str) -> None:
    """The package at the smallest shape, which torch.export was not told of."""
    import torch

    shape = tuple(bounds(axis)[0] for axis in manifest.input.shape)
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)).to(device)
    expected, got = graph(image)[1], package(image)[1]
    error = float((expected - got).abs().max())
    allowed = TOLERANCES["fp32"].logits_max_abs * max(1.0, float(expected.abs().max()))
    if not error <= allowed:
        raise ExportError(
            expected=f"logits within {allowed:.0e} at the smallest shape, {'x'.join(map(str, shape[:3]))}",
            got=f"{error:.1e}",
            fix="export with a larger --min-shape",
        )


def _is_operator(node: Any) -> bool:
    from torch._ops import OpOverload

    return node.op == "call_function" and isinstance(node.target, OpOverload)


def _examine(gpu: Gpu | None) -> Capability:
    del gpu  # a package for the CPU is made on any machine
    purpose = "export PT2 (AOTInductor)"
    problem = import_problem("torch") or import_problem("mmseg")
    if problem:
        return Capability(purpose, works=False, found=problem, remedy="pip install 'segdeploy[export]'")
    compiler = cpp_compiler()
    if compiler is None:
        return Capability(purpose, works=False, found="no C++ compiler", remedy="apt-get install g++, or name one in CXX")
    return Capability(purpose, works=True, found=f"{named_versions(('torch',))}, {compiler}")


EXPORTER = Exporter(
    name="pt2",
    title="PT2",
    modules=("torch", "mmseg"),
    packages=("torch",),
    precisions=("fp32",),
    write=write_pt2,
    check=check_compiler,
    examine=_examine,
)
