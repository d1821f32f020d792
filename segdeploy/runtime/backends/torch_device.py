"""What all PyTorch backends need: a device that is what was asked for, and a host batch on it."""

from __future__ import annotations

from typing import Any

from segdeploy.base.errors import BackendError, MissingExtraError


def import_torch(backend: str) -> Any:
    """Import torch, or say what to install.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtraError(package="torch", extra="train", purpose=f"running the {backend} backend") from error
    return torch


def pick_device(torch: Any, device: str, threads: int) -> Any:
    """The torch device for ``auto``, ``cpu`` or ``cuda``; sets the number of CPU threads.

    On CUDA, TF32 is off from then on, in this process: cuDNN has it on by default, and rounds what goes into a convolution to
    10 bits of mantissa. That is fp16's error under the name of fp32, in a reference and in what is held against it.

    Raises:
        BackendError: CUDA was asked for and there is none.
    """
    torch.set_num_threads(threads)
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise BackendError(
            expected="a CUDA device", got="none that PyTorch can see", fix="use --device cpu, or run: segdeploy doctor"
        )
    if not cuda or device == "cpu":
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda")


def device_name(torch: Any, device: Any) -> str:
    """``cpu``, or ``cuda`` with the GPU's name."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "cpu"


def compute_capability(torch: Any) -> str:
    """Of the current GPU, such as ``sm89``."""
    return "sm{}{}".format(*torch.cuda.get_device_capability())


def cpp_compiler() -> str | None:
    """The C++ compiler that AOTInductor would use, or None."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return str(get_cpp_compiler())
    except InvalidCxxCompiler:
        return None


def synchronize(torch: Any, device: Any) -> None:
    """Wait until the device is idle. The CPU always is on return."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
