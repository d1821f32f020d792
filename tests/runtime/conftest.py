"""A CUDA without a GPU: memory that fails where a real one would, copies that happen at the synchronisation, graphs."""

from __future__ import annotations

import ctypes
import enum
import sys
import types

import pytest


class Status(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class Kind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class CaptureMode(enum.IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


class Graph:
    """Work that was recorded: a graph, and then what can be launched of it."""

    def __init__(self, steps):
        self.steps = steps

    def __int__(self):
        return id(self)


class Handle:
    """A stream as cuda-python gives it: an object that is an int when asked."""

    def __int__(self):
        return 77


class FakeCudaRuntime(types.ModuleType):
    """``cuda.bindings.runtime`` as far as an engine needs it."""

    cudaMemcpyKind = Kind
    cudaStreamCaptureMode = CaptureMode
    cudaError_t = Status

    def __init__(self):
        super().__init__("cuda.bindings.runtime")
        self.memory = {}  # address -> buffer
        self.queue = []  # what the stream has still to do
        self.streams = 0
        self.capacity = 1 << 30
        self.events = []
        self.recording = None  # what was put on the stream since a capture began
        self.invalid = False  # whether something forbidden was asked for since
        self.graphs = set()
        self.last_error = 0

    def enqueue(self, step):
        """Put work on the stream, as kernels are."""
        (self.queue if self.recording is None else self.recording).append(step)

    def cudaStreamCreate(self):
        self.streams += 1
        return Status.cudaSuccess, Handle()

    def cudaStreamDestroy(self, stream):
        assert stream == 77
        self.streams -= 1
        return (Status.cudaSuccess,)

    def cudaMalloc(self, size):
        assert isinstance(size, int)
        assert self.recording is None
        if size > self.capacity:
            return Status.cudaErrorMemoryAllocation, None
        buffer = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(buffer)] = buffer
        self.events.append(("malloc", size))
        return Status.cudaSuccess, ctypes.addressof(buffer)

    def cudaFree(self, address):
        assert not self.queue, "memory that the stream still uses"
        del self.memory[address]
        return (Status.cudaSuccess,)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        assert stream == 77
        device = target if kind == Kind.cudaMemcpyHostToDevice else source
        if device not in self.memory or size > len(self.memory[device]):
            return (Status.cudaErrorInvalidValue,)
        self.enqueue(lambda: ctypes.memmove(target, source, size))
        return (Status.cudaSuccess,)

    def cudaStreamSynchronize(self, stream):
        assert stream == 77
        if self.recording is not None:
            self.invalid = True
            self.last_error = 900
            return (Status.cudaErrorStreamCaptureUnsupported,)
        for step in self.queue:
            step()
        self.queue.clear()
        return (Status.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream, mode):
        assert stream == 77
        assert mode == CaptureMode.cudaStreamCaptureModeThreadLocal
        assert not self.queue
        self.recording, self.invalid = [], False
        return (Status.cudaSuccess,)

    def cudaStreamEndCapture(self, stream):
        assert stream == 77
        graph, self.recording = Graph(self.recording), None
        if self.invalid:
            return Status.cudaErrorStreamCaptureInvalidated, None
        self.graphs.add(graph)
        return Status.cudaSuccess, graph

    def cudaGraphInstantiate(self, graph, flags):
        assert flags == 0
        if self.capacity == 0:
            return Status.cudaErrorMemoryAllocation, None
        executable = Graph(list(graph.steps))
        self.graphs.add(executable)
        return Status.cudaSuccess, executable

    def cudaGraphLaunch(self, graph, stream):
        assert stream == 77
        assert graph in self.graphs
        for step in graph.steps:
            self.enqueue(step)
        self.events.append(("launch",))
        return (Status.cudaSuccess,)

    def cudaGraphDestroy(self, graph):
        self.graphs.remove(graph)
        return (Status.cudaSuccess,)

    def cudaGraphExecDestroy(self, graph):
        self.graphs.remove(graph)
        return (Status.cudaSuccess,)

    def cudaGetLastError(self):
        status, self.last_error = self.last_error, 0
        return (Status(status),)

    def cudaGetErrorString(self, status):
        return Status.cudaSuccess, {1: b"invalid argument", 2: b"out of memory"}[int(status)]


@pytest.fixture
def cuda_runtime(monkeypatch):
    """Puts the fake in the place of cuda-python."""
    fake = FakeCudaRuntime()
    package, bindings = types.ModuleType("cuda"), types.ModuleType("cuda.bindings")
    package.bindings, bindings.runtime = bindings, fake
    for name, module in (("cuda", package), ("cuda.bindings", bindings), ("cuda.bindings.runtime", fake)):
        monkeypatch.setitem(sys.modules, name, module)
    return fake
