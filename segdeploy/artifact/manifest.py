"""The manifest: what an artifact is, where it came from, and what was proven of it. Schema 2.

History: 1 had one ``parity``, the last, and ``packed_unverified``; 2 has every verdict, and what it was packed despite of.
``decode_manifest`` reads both.

Axes are named by letters throughout: N batch, H and W height and width of the network's input, h and w of the decode
head's output, K classes.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeAlias, get_args

import msgspec

from segdeploy.artifact.fit import Fit
from segdeploy.artifact.history import counting
from segdeploy.artifact.layout import Labelling, Layout
from segdeploy.artifact.quantization import Quantization
from segdeploy.artifact.verdict import DeviceKind, Parity
from segdeploy.base.errors import ArtifactError
from segdeploy.base.records import Struct, decode_record

SCHEMA = 2

Format: TypeAlias = Literal["eager", "torchscript", "pt2", "onnx", "openvino", "tensorrt"]
Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# The names of all backends, in the order of tables. Each has a file in runtime/backends/; all but eager, the checkpoint as it
# is, are formats that can be exported, and have one in export/ too.
BACKENDS: tuple[Format, ...] = get_args(Format)
FORMATS: tuple[Format, ...] = tuple(name for name in BACKENDS if name != "eager")


class FileEntry(Struct, frozen=True):
    """One file of the artifact.

    Attributes:
        path: relative to the artifact's folder.
        sha256: hex digest of the content.
        bytes: size.
    """

    path: str
    sha256: str
    bytes: int


class Bounds(Struct, frozen=True):
    """The range of a dynamic axis: ``opt`` is what a tuning backend optimises for, ``step`` what all sizes are multiples of."""

    min: int
    opt: int
    max: int
    step: int = 1


Axis: TypeAlias = int | Bounds


class InputSpec(Struct, frozen=True):
    """The graph's one input: uint8 [N, H, W, 3] RGB, as decoded."""

    name: str
    dtype: str
    layout: str
    shape: tuple[Axis, ...]


class OutputSpec(Struct, frozen=True):
    """One output: ``mask`` [N, H, W] (argmax at the input's size) or ``logits`` float32 [N, K, h, w]."""

    name: str
    dtype: str
    layout: str


class Resize(Struct, frozen=True):
    """How an image is brought to the network's input size: one resize of mmseg's test pipeline, and what follows it.

    Attributes:
        mode: ``none`` (as it is), ``keep_ratio`` (fit within ``scale``, as mmcv.imrescale), ``exact``, ``shortest_edge``
            (mmseg's ResizeShortestEdge) or ``multiple`` (its ResizeToMultiple).
        scale: (width, height) in pixels, mmseg's order; for ``shortest_edge`` the shorter side and the most that the longer
            one may have; for ``multiple`` what width and height become multiples of.
        factor: (width, height) in parts of the image's own, in place of ``scale``.
        interpolation: mmcv's name of the filter.
        backend: which library's filter; the two round differently.
        then: the next resize of the pipeline.
    """

    mode: Literal["none", "keep_ratio", "exact", "shortest_edge", "multiple"]
    scale: tuple[int, int] | None = None
    factor: tuple[float, float] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "area", "lanczos", "box", "hamming"] = "bilinear"
    backend: Literal["cv2", "pillow"] = "cv2"
    then: Resize | None = None

    @property
    def words(self) -> str:
        """In a line; what is mmcv's default is left out."""
        parts = [f"{self.mode} {self.scale or self.factor or ''}".strip()]
        parts += [self.interpolation] if self.interpolation != "bilinear" else []
        parts += [f"by {self.backend}"] if self.backend != "cv2" else []
        return ", ".join(parts) + (f"; then {self.then.words}" if self.then else "")


class Pad(Struct, frozen=True):
    """Padding at the right and at the bottom, after normalisation; an exported graph does it, and crops its mask again.

    Attributes:
        size: (height, width) that an image is padded to at least; None where ``divisor`` counts.
        divisor: each side is padded to a multiple of it; None where ``size`` counts.
        value: of the padding.
    """

    size: tuple[int, int] | None = None
    divisor: int | None = None
    value: float = 0.0

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) after padding."""
        if self.size is not None:
            return max(height, self.size[0]), max(width, self.size[1])
        step = self.divisor or 1
        return -(-height // step) * step, -(-width // step) * step


class Preprocess(Struct, frozen=True):
    """What happens before the network; mean, std (0..255 scale, RGB) and pad are already inside an exported graph."""

    color: Literal["rgb", "bgr"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Resize
    pad: Pad | None = None

    def network_input(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that the network sees of an image of that size: padded where the model pads."""
        return self.pad.padded(height, width) if self.pad else (height, width)


class Postprocess(Struct, frozen=True):
    """How logits become labels: bilinear to the input size, bilinear to the original size, then ``reduce``.

    Attributes:
        resize: of the logits.
        align_corners: as in torch.
        reduce: ``argmax`` over the classes; ``threshold`` for a binary head of one output, whose label is 1 where the
            sigmoid lies above ``threshold``.
        threshold: of the sigmoid; None for ``argmax``.
    """

    resize: Literal["bilinear"]
    align_corners: bool
    reduce: Literal["argmax", "threshold"]
    threshold: float | None = None

    @property
    def cutoff(self) -> float | None:
        """The logit above which the label is 1: sigmoid(cutoff) = threshold. None for ``argmax``."""
        if self.threshold is None:
            return None
        if not 0 < self.threshold < 1:
            return -math.inf if self.threshold <= 0 else math.inf
        return math.log(self.threshold / (1 - self.threshold))


class Inference(Struct, frozen=True):
    """``whole`` runs the whole image; ``slide`` runs overlapping crops, sizes as (height, width)."""

    mode: Literal["whole", "slide"]
    crop: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None


class Lineage(Struct, frozen=True):
    """Where the artifact came from.

    Attributes:
        checkpoint_sha256: of the checkpoint's file; None for random weights.
        config_sha256: of the config's text.
        parent_sha256: of the model file that this one was made from (an engine's ONNX), or None.
        random_weights: True where no checkpoint was loaded.
        checkpoint: where the checkpoint lay, a hint for ``verify``; what counts is the hash.
        data_root: where its validation data lay, a hint for ``eval`` and ``bench``.
        command: the ``segdeploy export`` that makes this artifact again, paths as the user typed them; None where none did.
    """

    checkpoint_sha256: str | None
    config_sha256: str
    parent_sha256: str | None = None
    random_weights: bool = False
    checkpoint: str | None = None
    data_root: str | None = None
    command: str | None = None


class Toolchain(Struct, frozen=True):
    """Versions that made the artifact; None where a package had no part in it."""

    segdeploy: str
    python: str
    torch: str | None = None
    onnx: str | None = None
    onnxruntime: str | None = None
    openvino: str | None = None
    tensorrt: str | None = None
    tensorrt_flavour: Literal["tensorrt", "tensorrt_rtx"] | None = None
    cuda: str | None = None


class Target(Struct, frozen=True):
    """The device that the artifact is bound to. Portable artifacts have none.

    Attributes:
        device: where it runs.
        compute_capability: of the GPU, such as ``sm89``; several with commas.
        gpu: its name.
        cpu: architecture and vector instructions that compiled code needs, such as ``x86_64 AVX512 AVX512_VNNI``.
    """

    device: Literal["cpu", "cuda"]
    compute_capability: str | None = None
    gpu: str | None = None
    cpu: str | None = None


class Profile(Struct, frozen=True):
    """The shapes (N, H, W) that a TensorRT engine was compiled for, each axis from min to max, and tuned for: opt."""

    min: tuple[int, int, int]
    opt: tuple[int, int, int]
    max: tuple[int, int, int]


class Engine(Struct, frozen=True):
    """How a TensorRT engine is compiled from the ONNX file beside it.

    Attributes:
        profiles: in TensorRT's order; one at least. The input's axes span them all.
        typing: ``strong`` where the graph sets the precision of every tensor, ``weak`` where TensorRT 10 chose it.
        workspace_bytes: what its tactics may use at most; None for TensorRT's own default.
    """

    profiles: Annotated[tuple[Profile, ...], msgspec.Meta(min_length=1)]
    typing: Literal["strong", "weak"] = "strong"
    workspace_bytes: int | None = None


class Manifest(Struct, frozen=True):
    """Everything that is known of an artifact; the content of ``manifest.json``.

    ``parity`` is the history of its verdicts, to which lines are only added; ``verdict()`` says which of them counts.
    ``packed_despite`` says, for ever, what it was once packed for a server in spite of.
    """

    schema: int
    name: str
    format: Format
    precision: Precision
    files: tuple[FileEntry, ...]
    input: InputSpec
    outputs: tuple[OutputSpec, ...]
    preprocess: Preprocess
    postprocess: Postprocess
    inference: Inference
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int
    reduce_zero_label: bool
    lineage: Lineage
    toolchain: Toolchain
    fit: Fit = Fit()
    target: Target | None = None
    inference_precision: Literal["f32", "bf16"] | None = None  # a runtime that may choose is told this one; OpenVINO
    engine: Engine | None = None
    quantization: Quantization | None = None
    restructured: tuple[str, ...] = ()  # convolutions that are done before the upsampling of what they read
    parity: tuple[Parity, ...] = ()
    packed_despite: tuple[str, ...] = ()
    label_map: tuple[tuple[int, int], ...] = ()
    nan_to_num: float | None = None  # of mmseg's metric: the score of a class that does not occur, as a share of 1
    layouts: tuple[Layout, ...] = ()  # the data sets of the model's config: where they lie, how their labels are read

    @property
    def labelling(self) -> Labelling:
        """What the label maps mean of a data set that says nothing of its own."""
        return Labelling(self.reduce_zero_label, self.label_map)

    @property
    def label(self) -> str:
        """A short name for tables: format and precision."""
        return f"{self.format}-{self.precision}"

    @property
    def hashes(self) -> tuple[str, ...]:
        """SHA-256 of its files, in order: what a verdict is bound to."""
        return tuple(entry.sha256 for entry in self.files)

    def verdict(self, device: DeviceKind | None = None) -> Parity | None:
        """The verdict that counts of these very files.

        Args:
            device: the kind that the artifact shall run on: what is proven on a CPU is not proven on a GPU. None for the
                worst of all that it was verified on.

        Returns:
            None where it was never verified there. See ``segdeploy.artifact.history``.
        """
        return counting(self.parity, self.hashes, device)


def decode_manifest(data: bytes, source: str) -> Manifest:
    """Parse ``manifest.json``.

    Args:
        data: its content.
        source: what to call it in an error.

    Raises:
        ArtifactError: names the field that is wrong.
    """
    return decode_record(
        data,
        Manifest,
        schema=SCHEMA,
        what="manifest",
        source=source,
        again="make the artifact again with: segdeploy export",
        error=ArtifactError,
        upgrade=upgrade,
    )


def upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """What a manifest of schema 1 says, in the words of schema 2; any other is given back as it is."""
    if values.get("schema") != 1:
        return values
    changed = {key: value for key, value in values.items() if key != "packed_unverified"}
    verdict, files = values.get("parity"), values.get("files")
    if isinstance(verdict, dict):
        hashes = [entry.get("sha256") for entry in files if isinstance(entry, dict)] if isinstance(files, list) else []
        verdict = [{**verdict, "files": hashes, "noise": "seeded noise" in str(verdict.get("inputs"))}]
    despite = ["no passed verdict (--unverified)"] if values.get("packed_unverified") else []
    return {**changed, "schema": SCHEMA, "parity": verdict or [], "packed_despite": despite}


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as indented JSON with a final newline."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
