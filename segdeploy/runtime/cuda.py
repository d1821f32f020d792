"""The little of CUDA that an engine needs: one stream, named device buffers that only grow, copies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.core.errors import BackendError


class Cuda:
    """One stream and its buffers. ``close`` frees them."""

    def __init__(self) -> None:
        from cuda.bindings import runtime

        self._runtime: Any = runtime
        self._buffers: dict[str, tuple[int, int]] = {}  # name -> (address, capacity in bytes)
        self.stream: int = int(self._call(runtime.cudaStreamCreate()))

    def upload(self, name: str, values: NDArray[Any]) -> None:
        """Copy a contiguous host array to the buffer ``name``; finished after ``synchronize``."""
        self.reserve(name, values.shape, values.dtype)
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(self._runtime.cudaMemcpyAsync(self.address(name), values.ctypes.data, values.nbytes, kind, self.stream))

    def download(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Copy the buffer ``name`` to a new host array; finished on return."""
        values = np.empty(shape, dtype)
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(self._runtime.cudaMemcpyAsync(values.ctypes.data, self.address(name), values.nbytes, kind, self.stream))
        self.synchronize()
        return values

    def reserve(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Make the buffer ``name`` at least as large as an array of this shape."""
        wanted = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        address, capacity = self._buffers.get(name, (0, 0))
        if capacity < wanted:
            if address:
                self.synchronize()
                self._call(self._runtime.cudaFree(address))
                del self._buffers[name]
            self._buffers[name] = (int(self._call(self._runtime.cudaMalloc(wanted))), wanted)

    def address(self, name: str) -> int:
        """The device address of a buffer that was reserved."""
        return self._buffers[name][0]

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._call(self._runtime.cudaStreamSynchronize(self.stream))

    def close(self) -> None:
        """Free everything."""
        for address, _ in self._buffers.values():
            self._call(self._runtime.cudaFree(address))
        self._buffers.clear()
        self._call(self._runtime.cudaStreamDestroy(self.stream))

    def _call(self, answer: tuple[Any, ...]) -> Any:
        status, *values = answer
        if int(status) != 0:
            _, text = self._runtime.cudaGetErrorString(status)
            raise BackendError(
                expected="a working CUDA device",
                got=text.decode() if isinstance(text, bytes) else str(text),
                fix="run: segdeploy doctor",
            )
        return values[0] if values else None
