"""A CUDA without a GPU: memory that fails where a real one would, and copies that happen at the synchronisation."""

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


class Kind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class Handle:
    """A stream as cuda-python gives it: an object that is an int when asked."""

    def __int__(self):
        return 77


class FakeCudaRuntime(types.ModuleType):
    """``cuda.bindings.runtime`` as far as an engine needs it."""

    cudaMemcpyKind = Kind
    cudaError_t = Status

    def __init__(self):
        super().__init__("cuda.bindings.runtime")
        self.memory = {}  # address -> buffer
        self.queue = []  # what the stream has still to do
        self.streams = 0
        self.capacity = 1 << 30
        self.events = []

    def cudaStreamCreate(self):
        self.streams += 1
        return Status.cudaSuccess, Handle()

    def cudaStreamDestroy(self, stream):
        assert stream == 77
        self.streams -= 1
        return (Status.cudaSuccess,)

    def cudaMalloc(self, size):
        assert isinstance(size, int)
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
        self.queue.append(lambda: ctypes.memmove(target, source, size))
        return (Status.cudaSuccess,)

    def cudaStreamSynchronize(self, stream):
        assert stream == 77
        for step in self.queue:
            step()
        self.queue.clear()
        return (Status.cudaSuccess,)

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
