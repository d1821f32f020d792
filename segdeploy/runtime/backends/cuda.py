"""The little of CUDA that an engine needs: one stream, named device buffers that only grow, copies, a captured graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.base.errors import BackendError

_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation


class Cuda:
    """One stream, its buffers and its graph. ``close`` frees them."""

    def __init__(self) -> None:
        from cuda.bindings import runtime

        self._runtime: Any = runtime
        self._buffers: dict[str, tuple[int, int]] = {}  # name -> (address, capacity in bytes)
        self._graph: Any = None
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

    def capture(self, enqueue: Callable[[], bool]) -> bool:
        """Record what ``enqueue`` puts on the stream as a CUDA graph, without running it.

        The graph holds the addresses that the work reads and writes: no buffer may grow after this.

        Args:
            enqueue: as it would run, and has run once before; False where it failed.

        Returns:
            Whether there is a graph now. Work that cannot be captured (it allocates, or waits) leaves the stream as it was.
        """
        runtime = self._runtime
        self._call(runtime.cudaStreamBeginCapture(self.stream, runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal))
        try:
            done = enqueue()
        finally:
            status, graph = runtime.cudaStreamEndCapture(self.stream)
        if int(status) == 0 and done:
            status, executable = runtime.cudaGraphInstantiate(graph, 0)
            self._graph = executable if int(status) == 0 else None
        if graph is not None and int(graph):
            self._call(runtime.cudaGraphDestroy(graph))
        if self._graph is None:
            runtime.cudaGetLastError()  # a capture that was broken off is no error of the next call
        return self._graph is not None

    def launch(self) -> None:
        """Put the captured graph on the stream."""
        self._call(self._runtime.cudaGraphLaunch(self._graph, self.stream))

    def close(self) -> None:
        """Free everything."""
        if self._graph is not None:
            self._call(self._runtime.cudaGraphExecDestroy(self._graph))
            self._graph = None
        for address, _ in self._buffers.values():
            self._call(self._runtime.cudaFree(address))
        self._buffers.clear()
        self._call(self._runtime.cudaStreamDestroy(self.stream))

    def _call(self, answer: tuple[Any, ...]) -> Any:
        status, *values = answer
        if int(status) != 0:
            _, text = self._runtime.cudaGetErrorString(status)
            full = int(status) == _OUT_OF_MEMORY
            raise BackendError(
                expected="enough GPU memory" if full else "a working CUDA device",
                got=text.decode() if isinstance(text, bytes) else str(text),
                fix="free some, or export for smaller shapes" if full else "run: segdeploy doctor",
            )
        return values[0] if values else None
