"""Telling that a runtime ran out of memory: each says so in its own words, and few with a type of its own."""

from __future__ import annotations

# onnxruntime's arena and CUDA's allocator, C++'s own, OpenCV's, numpy's, the operating system's.
_WORDS = (
    "failed to allocate memory",
    "out of memory",
    "outofmemory",
    "bad_alloc",
    "bad allocation",
    "insufficient memory",
    "unable to allocate",
    "cannot allocate memory",
)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error of a runtime, or one that it came from, says that memory was lacking."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError) or type(seen).__name__ == "OutOfMemoryError":
            return True
        text = str(seen).lower()
        if any(words in text for words in _WORDS):
            return True
        seen = seen.__cause__
    return False
