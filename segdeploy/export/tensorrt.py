"""TensorRT: the ONNX file parsed and compiled, for this machine's GPU or ahead of time for a named architecture."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec

from segdeploy.core.axes import bounds
from segdeploy.core.errors import BackendError, ExportError
from segdeploy.core.files import sha256_file
from segdeploy.core.manifest import Manifest, Target
from segdeploy.core.tensorrt import Flavour, import_tensorrt, local_gpu, messages
from segdeploy.export.graph import DeployGraph
from segdeploy.export.onnx import write_onnx
from segdeploy.export.options import Options

# Where there is no GPU and none was named: Ada, as in the L4 and L40S that inference servers rent out.
DEFAULT_TARGET = "sm89"


def write_tensorrt(graph: DeployGraph, manifest: Manifest, folder: Path, options: Options) -> Manifest:
    """Write ``model.engine``.

    The engine is bound to a TensorRT version and a GPU architecture; the manifest says which.

    Raises:
        ExportError: the graph cannot be exported to ONNX, parsed or compiled.
        BackendError: TensorRT is not installed, or the target is not one that it compiles for.
    """
    gpu = local_gpu()
    flavour = import_tensorrt(prefer_rtx=bool(options.targets) or gpu is None)
    targets = options.targets or (() if gpu else (DEFAULT_TARGET,))
    if targets and flavour.name != "tensorrt_rtx":
        raise BackendError(
            expected="tensorrt_rtx, which compiles ahead of time",
            got=f"tensorrt {flavour.version}",
            fix="leave --target out on the GPU machine, or run: pip install 'segdeploy[tensorrt-rtx]'",
        )
    with tempfile.TemporaryDirectory(dir=folder, prefix=".onnx-") as scratch:
        manifest = write_onnx(graph, manifest, Path(scratch), options)
        source = Path(scratch) / "model.onnx"
        parent = sha256_file(source)
        engine = _compile(flavour, source, manifest, targets, options)
    (folder / "model.engine").write_bytes(engine)
    capability = ",".join(targets) if targets else gpu.compute_capability if gpu else None
    return msgspec.structs.replace(
        manifest,
        lineage=msgspec.structs.replace(manifest.lineage, parent_sha256=parent),
        toolchain=msgspec.structs.replace(
            manifest.toolchain, tensorrt=flavour.version, tensorrt_flavour=flavour.name, cuda=flavour.cuda_version
        ),
        target=Target(device="cuda", compute_capability=capability, gpu=None if targets or gpu is None else gpu.name),
    )


def _compile(flavour: Flavour, source: Path, manifest: Manifest, targets: tuple[str, ...], options: Options) -> bytes:
    trt = flavour.module
    with messages(trt) as log:
        builder = trt.Builder(log.logger)
        # Version 10 wants strong typing asked for: it makes the precision of every tensor what the ONNX file says.
        flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = builder.create_network(1 << int(flag) if flag is not None else 0)
        parser = trt.OnnxParser(network, log.logger)
        if not parser.parse_from_file(str(source)):
            first = parser.get_error(0) if parser.num_errors else None
            found = f"{first.node_operator()}: {first.desc()}" if first else log.last
            raise ExportError(expected="a graph that TensorRT can parse", got=found, fix="report the model; onnx still works")
        config = builder.create_builder_config()
        # Its 10-bit mantissa would be a loss of precision that nobody asked for: fp32 means fp32.
        config.clear_flag(trt.BuilderFlag.TF32)
        if options.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        _add_profile(builder, config, manifest)
        if targets:
            _set_targets(trt, config, targets)
        engine: Any = builder.build_serialized_network(network, config)
        if engine is None:
            raise ExportError(
                expected="a graph that TensorRT can compile", got=log.last, fix="narrow the shapes with --max-shape"
            )
        return bytes(engine)


def _add_profile(builder: Any, config: Any, manifest: Manifest) -> None:
    low, opt, high = zip(*(bounds(axis) for axis in manifest.input.shape), strict=True)
    profile = builder.create_optimization_profile()
    profile.set_shape(manifest.input.name, low, opt, high)
    config.add_optimization_profile(profile)


def _set_targets(trt: Any, config: Any, targets: tuple[str, ...]) -> None:
    known = {name.lower(): value for name, value in trt.ComputeCapability.__members__.items() if name.startswith("SM")}
    for target in targets:
        if target.lower() not in known:
            raise BackendError(
                expected=f"a target out of {', '.join(known)}", got=f"'{target}'", fix="choose one with --target"
            )
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        config.set_compute_capability(known[target.lower()], index)
