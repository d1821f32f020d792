"""A precision below float32, made in the ONNX graph: TensorRT >= 11 and TensorRT-RTX take it from there and nowhere else."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import onnx

from segdeploy.artifact.manifest import Manifest
from segdeploy.artifact.quantization import KeptLayer, Quantization
from segdeploy.base.errors import ExportError, InputError
from segdeploy.base.machine import cpu_flags
from segdeploy.export.calibration import Pictures, choose_pictures, measure_ranges
from segdeploy.export.fp16 import LARGEST, kept_layers, overflowing_nodes, sensitive_nodes, to_half
from segdeploy.export.options import Calibration
from segdeploy.export.quality import QualityMeter
from segdeploy.export.quantize import QuantizableLayer, Quantizer, describe_method, saturates
from segdeploy.export.sensitivity import SEARCH_IMAGES, Ranked, keep_within, rank_layers
from segdeploy.images.dataset import Sample, find_samples


def convert(path: Path, manifest: Manifest, wanted: Calibration) -> Manifest:
    """Convert a float32 ONNX file in place to the precision that the manifest names.

    Args:
        path: the file.
        manifest: of the artifact that it will be part of.
        wanted: the images to do it on, and what it may cost.

    Returns:
        The manifest with ``quantization`` filled in.

    Raises:
        InputError: there are no images, or one of them cannot be used.
        ExportError: the model does not stand it, or its graph cannot be converted.
    """
    if any(path.parent.glob(f"{path.name}?*")):
        raise ExportError(
            expected="a model of less than 1.9 GB, whose weights are in the ONNX file itself",
            got="weights in a file beside it",
            fix="export it with --precision fp32",
        )
    pictures = choose_pictures(manifest, wanted)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".measuring-") as scratch:
        make = _to_fp16 if manifest.precision == "fp16" else _to_int8
        return msgspec.structs.replace(manifest, quantization=make(path, manifest, wanted, pictures, Path(scratch)))


def _to_fp16(path: Path, manifest: Manifest, wanted: Calibration, pictures: Pictures, scratch: Path) -> Quantization:
    ranges = measure_ranges(path, pictures.paths, manifest, scratch, max_pixels=pictures.max_pixels)
    model = onnx.load(path)
    reasons = sensitive_nodes(model)
    overflowing = overflowing_nodes(model, ranges, reasons)
    beyond = [layer for layer in kept_layers(model, overflowing) if "beyond" in layer.reason]
    if beyond and not wanted.keep:
        raise ExportError(
            expected=f"every value within fp16's range (up to {LARGEST:.0f})",
            got=f"{beyond[0].op} '{beyond[0].name}' {beyond[0].reason}{_and_more(beyond)}",
            fix="leave --no-keep out: these layers then stay in float32",
        )
    reasons.update(overflowing)
    layers = kept_layers(model, reasons)
    weights = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    converted = sum(node.name not in reasons and not weights.isdisjoint(node.input[1:2]) for node in model.graph.node)
    onnx.save(to_half(model, reasons), path)
    onnx.checker.check_model(str(path), full_check=True)
    return Quantization(
        method="fp16 weights and activations",
        images=len(pictures.paths),
        images_source=pictures.source,
        images_sha256=pictures.sha256,
        converted=converted,
        kept=layers,
    )


def _to_int8(path: Path, manifest: Manifest, wanted: Calibration, pictures: Pictures, scratch: Path) -> Quantization:
    ranges = measure_ranges(path, pictures.paths, manifest, scratch, max_pixels=pictures.max_pixels)
    reduced = saturates(manifest.format, cpu_flags())
    quantizer = Quantizer(path, ranges, manifest.format, reduced=reduced)
    layers = quantizer.layers

    def quantized(chosen: Sequence[QuantizableLayer]) -> Path:
        return quantizer.write(scratch / path.name, chosen)

    def ranked() -> list[Ranked]:
        if not wanted.keep:
            return []
        return rank_layers(layers, quantized, path, manifest, pictures.paths, max_pixels=pictures.max_pixels)

    meters = _meters(path, manifest, wanted, pictures)
    kept, quality = keep_within(meters, layers, quantized, budget=wanted.max_drop, rank=ranked)
    held = {one.layer for one in kept}
    quantized([layer for layer in layers if layer not in held]).replace(path)
    onnx.checker.check_model(str(path), full_check=True)
    return Quantization(
        method=describe_method(manifest.format, reduced=reduced),
        images=len(pictures.paths),
        images_source=pictures.source,
        images_sha256=pictures.sha256,
        converted=len(layers) - len(kept),
        kept=tuple(
            KeptLayer(
                name=one.layer.name,
                op=one.layer.op,
                reason=f"int8 here alone moves the logits by {100 * one.error:.2g} %",
            )
            for one in kept
        ),
        quality=quality,
    )


def _meters(path: Path, manifest: Manifest, wanted: Calibration, pictures: Pictures) -> list[QualityMeter]:
    """What the search is held against, and then the result: some of the labelled images, all of them."""
    samples = labelled(manifest, wanted)
    everything = QualityMeter(manifest, path, samples, pictures.paths, max_pixels=pictures.max_pixels)
    if len(samples) <= SEARCH_IMAGES:
        return [everything]
    few = [samples[i * len(samples) // SEARCH_IMAGES] for i in range(SEARCH_IMAGES)]
    return [QualityMeter(manifest, path, few, (), max_pixels=pictures.max_pixels), everything]


def labelled(manifest: Manifest, wanted: Calibration) -> list[Sample]:
    """The labelled images that a precision is held against; none where nobody named a data set and the config's is not here.

    Raises:
        InputError: the data set that was named has no val split.
    """
    try:
        return find_samples(wanted.data, "val", manifest)
    except InputError:
        if wanted.data is not None:
            raise
        return []  # the config's data set is not on this machine


def _and_more(found: Sequence[object]) -> str:
    return f", and {len(found) - 1} more" if len(found) > 1 else ""
