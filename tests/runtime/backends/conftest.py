"""The TensorRT that needs no GPU."""

from support.fake_tensorrt import engine, engine_manifest, fake_trt, trt

__all__ = ["engine", "engine_manifest", "fake_trt", "trt"]
