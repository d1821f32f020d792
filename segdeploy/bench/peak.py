"""What the machine can do at most: a large product or convolution in each precision, timed in the same run as the models.

Runtimes multiply matrices through one library and convolve through another, of which either may be the faster.

``python -m segdeploy.bench.peak THREADS DEVICE`` in a process of its own; prints one JSON line.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import msgspec
import numpy as np

from segdeploy.bench.result import Peak, PeakPrecision

COMMAND = (sys.executable, "-m", "segdeploy.bench.peak")
# Large enough that a product's work dwarfs its memory traffic and its start; a second of work on a few cores.
_SIDES = {"cpu": 2048, "cuda": 8192}
# (N, channels in and out, side) of a convolution of 3x3, and of one of 1x1, with as much work.
_MAPS = {"cpu": (1, 512, 64), "cuda": (8, 1024, 128)}
_WARMUP, _LEAST, _MOST, _ENOUGH_S = 2, 5, 30, 2.0
_TIMEOUT_S = 300


def measure_peaks(threads: int, device: str, command: Sequence[str] = COMMAND) -> tuple[Peak, ...]:
    """Time the products in a fresh process; what cannot be measured has a reason.

    Args:
        threads: CPU threads, as many as the models are given.
        device: ``auto``, ``cpu`` or ``cuda``.
        command: starts the process.
    """
    try:
        done = subprocess.run([*command, str(threads), device], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=tuple[Peak, ...])
    except (IndexError, msgspec.DecodeError, OSError, subprocess.TimeoutExpired) as error:
        reason = f"the products could not be timed: {' '.join(str(error).split())[:200]}"
        return (Peak(precision="fp32", device="cpu", runtime="", gmac=0, run_ms=(), reason=reason),)


def products(threads: int, device: str) -> tuple[Peak, ...]:
    """Time the products in this process. Runtimes that are not installed leave a reason."""
    found = [_peak("int8", "cpu", "onnxruntime", partial(_onnxruntime_int8, threads))] if device != "cuda" else []
    try:
        import torch
    except ModuleNotFoundError:
        return (_peak("fp32", "cpu", "numpy", _numpy), *found)
    torch.set_num_threads(threads)
    cuda = torch.cuda.is_available() and device != "cpu"
    if device != "cuda":
        wanted: tuple[PeakPrecision, ...] = ("fp32", "bf16")
        found = [_fastest(torch, one, "cpu") for one in wanted] + found
    if cuda:
        on_gpu: tuple[PeakPrecision, ...] = ("fp32", "tf32", "fp16", "bf16")
        found += [_fastest(torch, one, "cuda") for one in on_gpu]
    return tuple(found)


def _fastest(torch: Any, precision: PeakPrecision, device: str) -> Peak:
    """A product and convolutions of a precision: the one that does most in a second."""
    count, channels, side = _MAPS[device]
    tried = [_peak(precision, device, "torch", partial(_torch, torch, precision, device))]
    for taps in (3, 1):
        gmac = count * channels**2 * side**2 * taps**2 / 1e9
        tried.append(_peak(precision, device, "torch", partial(_convolution, torch, precision, device, taps), gmac))
    return max(tried, key=lambda one: one.gmac / min(one.run_ms, default=math.inf))


def _peak(
    precision: PeakPrecision, device: str, package: str, make: Callable[[], Callable[[], object]], gmac: float | None = None
) -> Peak:
    gmac = _SIDES[device] ** 3 / 1e9 if gmac is None else gmac
    try:
        values, reason = _timed(make()), None
    except Exception as error:  # noqa: BLE001  a runtime that is missing, or that does not have the precision here
        values, reason = (), " ".join(f"{type(error).__name__}: {error}".split())[:200]
    runtime = f"{package} {version(package)}" if reason is None else package
    return Peak(precision=precision, device=device, runtime=runtime, gmac=gmac, run_ms=values, reason=reason)  # type: ignore[arg-type]


def _timed(call: Callable[[], object]) -> tuple[float, ...]:
    for _ in range(_WARMUP):
        call()
    values: list[float] = []
    while len(values) < _LEAST or (len(values) < _MOST and sum(values) < 1000 * _ENOUGH_S):
        started = time.perf_counter_ns()
        call()
        values.append((time.perf_counter_ns() - started) / 1e6)
    return tuple(values)


def _numpy() -> Callable[[], object]:
    a = np.random.default_rng(0).random((_SIDES["cpu"],) * 2, np.float32)
    return lambda: a @ a


def _torch(torch: Any, precision: PeakPrecision, device: str) -> Callable[[], object]:
    a = torch.rand((_SIDES[device],) * 2, device=device).to(_dtype(torch, precision))
    return _finished(torch, device, lambda: torch.mm(a, a))


def _convolution(torch: Any, precision: PeakPrecision, device: str, taps: int) -> Callable[[], object]:
    count, channels, side = _MAPS[device]
    dtype = _dtype(torch, precision)
    layout = torch.channels_last if device == "cuda" else torch.contiguous_format
    maps = torch.rand((count, channels, side, side), device=device).to(dtype, memory_format=layout)
    weight = torch.rand((channels, channels, taps, taps), device=device).to(dtype, memory_format=layout)
    return _finished(torch, device, lambda: torch.nn.functional.conv2d(maps, weight, padding=taps // 2))


def _dtype(torch: Any, precision: PeakPrecision) -> Any:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)


def _finished(torch: Any, device: str, work: Callable[[], object]) -> Callable[[], object]:
    def call() -> None:
        with torch.inference_mode():
            work()
        if device == "cuda":
            torch.cuda.synchronize()

    return call


def _onnxruntime_int8(threads: int) -> Callable[[], object]:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    side = _SIDES["cpu"]
    random = np.random.default_rng(0)
    weights = numpy_helper.from_array(random.integers(-127, 128, (side, side), np.int8), "b")
    given = helper.make_tensor_value_info("a", TensorProto.UINT8, [side, side])
    made = helper.make_tensor_value_info("c", TensorProto.INT32, [side, side])
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["a", "b"], ["c"])], "gemm", [given], [made], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    a = random.integers(0, 256, (side, side), np.uint8)
    return lambda: session.run(None, {"a": a})


def main() -> None:
    """Time, and print."""
    sys.stdout.write(msgspec.json.encode(products(int(sys.argv[1]), sys.argv[2])).decode() + "\n")


if __name__ == "__main__":
    main()
