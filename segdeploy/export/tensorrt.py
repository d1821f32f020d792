"""TensorRT: the ONNX file parsed and compiled, for this machine's GPU or ahead of time for named architectures."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from segdeploy.artifact.engine import ONNX_NAME, profile_text, trtexec_command
from segdeploy.artifact.manifest import Engine, Manifest, Target
from segdeploy.base.capability import Capability, import_problem
from segdeploy.base.errors import BackendError, ExportError
from segdeploy.base.files import sha256_file
from segdeploy.base.machine import Gpu, local_gpu
from segdeploy.base.progress import progress_bar
from segdeploy.export.exporter import Exporter, check_quantizer
from segdeploy.export.onnx import write_onnx
from segdeploy.export.options import Options
from segdeploy.export.shapes import ShapeLimits, Shapes
from segdeploy.export.timing_cache import check_cache, default_cache, timing_cache
from segdeploy.runtime.backends.tensorrt_flavour import Flavour, import_tensorrt, known_targets, messages

if TYPE_CHECKING:
    from segdeploy.export.graph import DeployGraph

# Where there is no GPU and none was named: Ada, as in the L4 and L40S that inference servers rent out.
DEFAULT_TARGET = "sm89"
_OLDEST_MAJOR = 10
_FIRST_STRONG_ONLY_MAJOR = 11


@dataclass(frozen=True)
class Plan:
    """What builds the engine, and for what.

    Attributes:
        flavour: of TensorRT.
        targets: GPU architectures to compile for ahead of time, as TensorRT-RTX does; none for the GPU of this machine.
        gpu: of this machine, where the engine is built on it and for it.
        timing_cache: TensorRT's; None for TensorRT-RTX, which measures nothing when it builds.
    """

    flavour: Flavour
    targets: tuple[str, ...]
    gpu: Gpu | None
    timing_cache: Path | None


def plan_build(options: Options) -> Plan:
    """Decide what builds the engine; everything that can be refused without a model is refused here.

    Raises:
        BackendError: TensorRT is not installed or too old, or cannot do what was asked for.
        InputError: the timing cache cannot be written.
    """
    gpu = local_gpu()
    flavour = import_tensorrt(prefer_rtx=bool(options.targets) or gpu is None)
    if flavour.name == "tensorrt_rtx":
        targets = _chosen_targets(flavour, options.targets or ((gpu.compute_capability,) if gpu else (DEFAULT_TARGET,)))
        plan = Plan(flavour, targets, None, None)
    elif options.targets or gpu is None:
        raise BackendError(
            expected="tensorrt_rtx, which compiles ahead of time",
            got=f"tensorrt {flavour.version}" + ("" if gpu else " and no GPU"),
            fix="leave --target out on the GPU machine, or run: pip install 'segdeploy[tensorrt-rtx]'",
        )
    elif flavour.major < _OLDEST_MAJOR:
        raise BackendError(
            expected=f"tensorrt >= {_OLDEST_MAJOR}",
            got=f"tensorrt {flavour.version}",
            fix="run: pip install --upgrade 'segdeploy[tensorrt]'",
        )
    else:
        plan = Plan(flavour, (), gpu, options.timing_cache or default_cache(flavour.version, gpu.name))
    _refuse_what_is_gone(plan, options)
    return plan


def _chosen_targets(flavour: Flavour, asked: tuple[str, ...]) -> tuple[str, ...]:
    # Several in one text, as in --target sm89,sm120; each once.
    targets = tuple(dict.fromkeys(part.strip().lower() for text in asked for part in text.split(",")))
    known = known_targets(flavour)
    for target in targets:
        if target not in known:
            raise BackendError(
                expected=f"a target out of {', '.join(known)}", got=f"'{target}'", fix="choose with --target, such as sm86,sm89"
            )
    return targets


def _refuse_what_is_gone(plan: Plan, options: Options) -> None:
    name = f"{plan.flavour.name} {plan.flavour.version}"
    strong_only = plan.flavour.name == "tensorrt_rtx" or plan.flavour.major >= _FIRST_STRONG_ONLY_MAJOR
    if options.typing == "weak" and strong_only:
        raise BackendError(
            expected="tensorrt 10, the last that chooses precisions itself, for --typing weak",
            got=name,
            fix="leave --typing out: the precision is then set in the ONNX graph",
        )
    if options.timing_cache is None:
        return
    if plan.timing_cache is None:
        raise BackendError(
            expected="tensorrt on a GPU machine for --timing-cache",
            got=f"{name}, which measures nothing when it builds",
            fix="leave --timing-cache out",
        )
    check_cache(plan.timing_cache)


def write_tensorrt(graph: DeployGraph, manifest: Manifest, folder: Path, options: Options) -> Manifest:
    """Write ``model.engine`` and, beside it, the ``model.onnx`` that it was compiled from.

    The engine is bound to a TensorRT version and a GPU; the manifest says which. The ONNX file is what another machine's
    engine can be built from, without PyTorch and without the checkpoint.

    Raises:
        ExportError: the graph cannot be exported to ONNX, parsed or compiled.
        BackendError: see ``plan_build``.
        InputError: see ``plan_build``, and a precision below fp32 without images to make it on.
    """
    plan = plan_build(options)
    # With weak typing TensorRT itself lowers what it likes to fp16; int8 needs the scales that only the graph can carry.
    in_graph = "fp32" if options.typing == "weak" and manifest.precision == "fp16" else manifest.precision
    made = write_onnx(graph, msgspec.structs.replace(manifest, precision=in_graph), folder, options)
    manifest = msgspec.structs.replace(made, precision=manifest.precision)
    source = folder / ONNX_NAME
    (folder / "model.engine").write_bytes(compile_engine(plan, source, manifest))
    flavour, gpu = plan.flavour, plan.gpu
    capability = gpu.compute_capability if gpu else ",".join(plan.targets)
    return msgspec.structs.replace(
        manifest,
        lineage=msgspec.structs.replace(manifest.lineage, parent_sha256=sha256_file(source)),
        toolchain=msgspec.structs.replace(
            manifest.toolchain, tensorrt=flavour.version, tensorrt_flavour=flavour.name, cuda=flavour.cuda_version
        ),
        target=Target(device="cuda", compute_capability=capability, gpu=gpu.name if gpu else None),
    )


def compile_engine(plan: Plan, source: Path, manifest: Manifest) -> bytes:
    """Parse an ONNX file and compile it.

    Args:
        plan: of ``plan_build``.
        source: the ONNX file.
        manifest: names the input, the precision, and in ``engine`` profiles, typing and workspace.

    Raises:
        ExportError: TensorRT cannot parse or compile it; in TensorRT's words.
    """
    trt, wanted = plan.flavour.module, manifest.engine
    assert wanted is not None
    with messages(trt) as log:
        builder = trt.Builder(log.logger)
        network = builder.create_network(_network_flags(trt, wanted))
        parser = trt.OnnxParser(network, log.logger)
        if not parser.parse_from_file(str(source)):
            first = parser.get_error(0) if parser.num_errors else None
            found = f"{first.node_operator()}: {first.desc()}" if first else log.last
            raise ExportError(expected="a graph that TensorRT can parse", got=found, fix="report the model; onnx still works")
        config = builder.create_builder_config()
        _configure(trt, builder, config, manifest)
        if plan.targets:
            _set_targets(trt, config, plan.targets)
        with _progress(trt, config), timing_cache(config, plan.timing_cache) if plan.timing_cache else nullcontext():
            engine: Any = builder.build_serialized_network(network, config)
            if engine is None:
                where = f" for {','.join(plan.targets)}" if plan.targets else ""
                raise ExportError(
                    expected=f"a graph that TensorRT can compile{where}",
                    got=log.last,
                    fix="choose narrower shapes, another --precision or another --target; onnx still works",
                )
        return bytes(engine)


def _network_flags(trt: Any, wanted: Engine) -> int:
    # Version 10 wants strong typing asked for: it makes the precision of every tensor what the ONNX file says.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None) if wanted.typing == "strong" else None
    return 0 if flag is None else 1 << int(flag)


def _configure(trt: Any, builder: Any, config: Any, manifest: Manifest) -> None:
    wanted = manifest.engine
    assert wanted is not None
    # Its 10-bit mantissa would be a loss of precision that nobody asked for: fp32 means fp32.
    config.clear_flag(trt.BuilderFlag.TF32)
    if wanted.typing == "weak" and manifest.precision != "fp32":
        config.set_flag(getattr(trt.BuilderFlag, manifest.precision.upper()))
    if wanted.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, wanted.workspace_bytes)
    for one in wanted.profiles:
        profile = builder.create_optimization_profile()
        profile.set_shape(manifest.input.name, (*one.min, 3), (*one.opt, 3), (*one.max, 3))
        config.add_optimization_profile(profile)


def _set_targets(trt: Any, config: Any, targets: tuple[str, ...]) -> None:
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        config.set_compute_capability(trt.ComputeCapability.__members__[target.upper()], index)


@contextmanager
def _progress(trt: Any, config: Any) -> Iterator[None]:
    """Show what the builder does, which on a GPU takes minutes, and let Ctrl-C end it."""
    with progress_bar("compile the engine", None) as advance:

        class Monitor(trt.IProgressMonitor):
            interrupted = False

            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)

            def phase_start(self, name: str, parent: str | None, steps: int) -> None:
                """Nothing to count yet."""

            def phase_finish(self, name: str) -> None:
                """Nothing left to count."""

            def step_complete(self, name: str, step: int) -> bool:  # noqa: ARG002  the interface
                try:
                    advance(note=name)
                except KeyboardInterrupt:  # it would be lost on its way through TensorRT
                    self.interrupted = True
                return not self.interrupted

        config.progress_monitor = monitor = Monitor()
        try:
            yield
        finally:
            if monitor.interrupted:
                raise KeyboardInterrupt


def _check(options: Options) -> None:
    check_quantizer(options)
    plan_build(options)


def _plan(manifest: Manifest, shapes: Shapes, options: Options) -> Manifest:
    engine = Engine(profiles=shapes.profiles, typing=options.typing, workspace_bytes=options.workspace_bytes)
    return msgspec.structs.replace(manifest, engine=engine)


def _tell(manifest: Manifest) -> list[str]:
    """How the engine was compiled, for which shapes, and the line that compiles it with NVIDIA's tool."""
    engine, tools = manifest.engine, manifest.toolchain
    if engine is None:
        return []
    limit = f", workspace {engine.workspace_bytes >> 20} MiB" if engine.workspace_bytes is not None else ""
    return [
        f"{tools.tensorrt_flavour} {tools.tensorrt}, {engine.typing}ly typed{limit}",
        *(f"profile {index}: {profile_text(profile)}" for index, profile in enumerate(engine.profiles)),
        f"the same with NVIDIA's tool, in this folder: {trtexec_command(manifest)}",
    ]


def _examine(gpu: Gpu | None) -> Capability:
    problems = {name: import_problem(name) for name in ("tensorrt", "tensorrt_rtx")}
    usable = [f"{name} {importlib.import_module(name).__version__}" for name, problem in problems.items() if not problem]
    works = not problems["tensorrt_rtx"] or (bool(usable) and gpu is not None)
    remedy = "" if works else "pip install 'segdeploy[tensorrt-rtx]' (compiles without a GPU)"
    return Capability("export TensorRT", works, ", ".join(usable) or problems["tensorrt_rtx"], remedy)


EXPORTER = Exporter(
    name="tensorrt",
    title="TensorRT",
    modules=("torch", "mmseg", "onnx", "onnxscript"),
    packages=("tensorrt", "tensorrt-rtx-cu13"),
    precisions=("fp32", "fp16", "int8"),
    write=write_tensorrt,
    # It reserves memory for the largest shape of its profile and tunes for `opt`: a range without need costs both.
    limits=ShapeLimits(side=1024, batch=4),
    check=_check,
    plan=_plan,
    tell=_tell,
    examine=_examine,
)
