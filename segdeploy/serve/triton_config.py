"""``config.pbtxt`` of a Triton model: of the predictor in the Python backend, and of a network alone in its own backend.

The fields are those of Triton's model_config.proto.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import Bounds, Manifest
from segdeploy.base.errors import ArtifactError, InputError, MissingExtraError
from segdeploy.serve.model_config import ModelConfig

# onnxruntime's names of types -> Triton's.
_TYPES = {
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float)": "TYPE_FP32",
    "tensor(float16)": "TYPE_FP16",
}
_ANY = -1  # Triton's word for an axis of any size


@dataclass(frozen=True)
class Tensor:
    """An input or an output of a graph: every axis, the batch too; -1 for one of any size."""

    name: str
    triton_type: str
    shape: tuple[int, ...]


def predictor_config(name: str, manifest: Manifest, config: ModelConfig) -> str:
    """Encoded pictures in, PNG of labels out: the predictor in the Python backend."""
    bytes_of_one = {"data_type": "TYPE_STRING", "dims": [1]}
    return _text(
        [
            *_head(name, manifest, backend="python", batch_size=config.batch_size),
            _block("input", [{"name": "image", **bytes_of_one}]),
            _block("output", [{"name": "mask", **bytes_of_one}]),
            *_scheduling(manifest, config, profiles=0),
        ]
    )


def bare_config(name: str, manifest: Manifest, graph: tuple[Sequence[Tensor], Sequence[Tensor]], config: ModelConfig) -> str:
    """The network alone: its tensors as they are, batched by Triton where the artifact takes batches from one on.

    Args:
        name: of the model.
        manifest: of an ONNX or a TensorRT artifact.
        graph: its inputs and outputs.
        config: workers, batches and the queue.

    Raises:
        InputError: the artifact does not take such batches.
    """
    batch, batch_size = manifest.input.shape[0], config.batch_size
    dynamic = isinstance(batch, Bounds) and batch.min == 1
    largest = batch.max if isinstance(batch, Bounds) else batch
    if batch_size > (largest if dynamic else 1):
        taken = f"1 to {largest}" if dynamic else f"{largest}, which is fixed"
        raise InputError(
            expected=f"a --batch-size that the artifact takes: {taken}",
            got=str(batch_size),
            fix="export it with a larger --batch, or leave --batch-size out" if dynamic else "leave --batch-size out",
        )

    def entries(tensors: Sequence[Tensor]) -> list[dict[str, object]]:
        first = 1 if dynamic else 0  # with batches, Triton writes the shape of one item
        return [{"name": one.name, "data_type": one.triton_type, "dims": list(one.shape[first:])} for one in tensors]

    backend = {"onnx": "onnxruntime", "tensorrt": "tensorrt"}[manifest.format]
    profiles = len(manifest.engine.profiles) if manifest.engine else 0
    return _text(
        [
            *_head(name, manifest, backend=backend, batch_size=batch_size if dynamic else 0),
            _block("input", entries(graph[0])),
            _block("output", entries(graph[1])),
            *_scheduling(manifest, config, profiles=profiles, batching=dynamic),
        ]
    )


def read_graph(artifact: Artifact) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and outputs of the graph: of the ONNX file, which lies beside an engine too, held against the manifest.

    Raises:
        ArtifactError: the manifest names other tensors, or the graph has a type that Triton does not know.
        MissingExtraError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtraError(package="onnxruntime", extra="onnx", purpose="reading the tensors of a graph") from error
    from segdeploy.artifact.engine import ONNX_NAME

    manifest = artifact.manifest
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # it is read, not run
    options.log_severity_level = 3
    path = artifact.model_path if manifest.format == "onnx" else artifact.folder / ONNX_NAME
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs, outputs = (
        [_tensor(one, artifact.name) for one in found] for found in (session.get_inputs(), session.get_outputs())
    )
    told = [manifest.input.name], [one.name for one in manifest.outputs]
    found = [one.name for one in inputs], [one.name for one in outputs]
    if told != found:
        raise ArtifactError(
            expected=f"the tensors that the manifest of {artifact.name} names: {told[0]} -> {told[1]}",
            got=f"{found[0]} -> {found[1]} in the graph",
            fix="export it again",
        )
    return inputs, outputs


def _tensor(node: object, artifact: str) -> Tensor:
    name, kind, shape = (getattr(node, field) for field in ("name", "type", "shape"))
    if kind not in _TYPES:
        raise ArtifactError(
            expected=f"types that Triton knows in {artifact}",
            got=f"{kind} of '{name}'",
            fix="use its predictor: leave --bare out",
        )
    return Tensor(name, _TYPES[kind], tuple(axis if isinstance(axis, int) else _ANY for axis in shape))


def _head(name: str, manifest: Manifest, *, backend: str, batch_size: int) -> list[str]:
    return [
        f"# {manifest.name} {manifest.label}, made by segdeploy {manifest.toolchain.segdeploy}",
        f"name: {json.dumps(name)}",
        f"backend: {json.dumps(backend)}",
        f"max_batch_size: {batch_size}",
    ]


def _scheduling(manifest: Manifest, config: ModelConfig, *, profiles: int, batching: bool = True) -> list[str]:
    """What waits too long is not computed at all; a request may say less (``timeout``, in microseconds)."""
    group: dict[str, object] = {"count": config.workers, "kind": "KIND_GPU" if manifest.format == "tensorrt" else "KIND_AUTO"}
    if profiles > 1:  # else Triton takes the first alone
        group["profile"] = [str(index) for index in range(profiles)]
    policy = {
        "timeout_action": "REJECT",
        "default_timeout_microseconds": config.response_timeout_s * 1_000_000,
        "allow_timeout_override": True,
        "max_queue_size": config.queue_size,
    }
    delay_us = config.max_batch_delay_ms * 1000 if config.batch_size > 1 else 0
    batcher = {"max_queue_delay_microseconds": delay_us, "default_queue_policy": policy}
    return [*([_block("dynamic_batching", batcher)] if batching else []), _block("instance_group", [group])]


# Values that protobuf's text format writes without quotes: names of enums.
_ENUMS = ("TYPE_", "KIND_", "REJECT")


def _block(name: str, value: object, indent: str = "") -> str:
    """A field of protobuf's text format, of dicts, lists, strings, numbers and truth values."""
    if isinstance(value, dict):
        inner = "\n".join(_block(key, one, indent + "  ") for key, one in value.items())
        return f"{indent}{name} {{\n{inner}\n{indent}}}"
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return "\n".join(_block(name, one, indent) for one in value)
    if isinstance(value, str) and value.startswith(_ENUMS):
        return f"{indent}{name}: {value}"
    return f"{indent}{name}: {json.dumps(value)}"


def _text(fields: list[str]) -> str:
    return "\n".join(fields) + "\n"
