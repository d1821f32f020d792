"""The reference: mmseg's own model, with mmseg's own preprocessing and pooling, as the checkpoint has it.

It shares no code with the deploy graph on purpose: what the exporters are held against must not carry their faults.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import FileEntry
from segdeploy.base.errors import ArtifactError
from segdeploy.models.build import build_model
from segdeploy.models.checkpoint import Checkpoint, load_checkpoint
from segdeploy.models.datasets import datasets_of
from segdeploy.models.describe import default_name, describe, palette_note
from segdeploy.runtime.backend import Backend
from segdeploy.runtime.backends.torch_device import device_name, import_torch, pick_device, synchronize
from segdeploy.runtime.session import Prediction, Segmented, Staged, checked_images

# What the loaders of a config without a pipeline would do.
_BARE_PIPELINE = ({"type": "LoadImageFromFile"}, {"type": "PackSegInputs"})


def describe_checkpoint(path: Path, config: str | None = None, say: Callable[[str], None] | None = None) -> Artifact:
    """A checkpoint as an Artifact of format ``eager``. With a config of its own, that file is listed second.

    Args:
        path: of the checkpoint.
        config: as ``load_checkpoint`` takes it.
        say: called with a line on what of the checkpoint was filled in or left out.

    Raises:
        CheckpointError: it cannot be loaded.
        ConfigError: its config cannot be used.
    """
    checkpoint = load_checkpoint(path, config)
    assert checkpoint.sha256 is not None
    assert checkpoint.size_bytes is not None
    if say is not None and (note := palette_note(checkpoint)) is not None:
        say(note)
    files = [FileEntry(path=path.name, sha256=checkpoint.sha256, bytes=checkpoint.size_bytes)]
    if config is not None:
        files.append(FileEntry(path=config, sha256=checkpoint.config_sha256, bytes=0))
    manifest = describe(checkpoint, name=default_name(checkpoint), fmt="eager", files=tuple(files))
    return Artifact(path.parent, manifest)


class EagerSession:
    """PyTorch running the mmseg model."""

    def __init__(self, artifact: Artifact, device: str, threads: int) -> None:
        """Build the model and load its weights.

        Raises:
            BackendError: PyTorch is missing, or CUDA was asked for and there is none.
            ArtifactError: the checkpoint or its config was replaced after it was described.
        """
        self.artifact = artifact
        self._torch = import_torch("eager")
        self._device = pick_device(self._torch, device, threads)
        checkpoint = _as_described(artifact)
        self._model: Any = build_model(checkpoint).to(self._device)
        self._pipeline = _pipeline(checkpoint.config)
        from mmseg.structures import SegDataSample

        self._sample = SegDataSample
        head = self._model.decode_head
        self._head: Any = head[-1] if isinstance(head, self._torch.nn.ModuleList) else head  # of a cascade, the last
        self._resize_logits, self._head.predict_by_feat = self._head.predict_by_feat, self._keep_logits
        self._logits: Any = None
        self._decode, self._model.encode_decode = self._model.encode_decode, self._keep_full
        self._full: Any = None
        self._passes = 0
        self._seen: tuple[NDArray[np.uint8], Prediction] | None = None

    @property
    def model(self) -> Any:
        """The mmseg model, for those that look inside."""
        return self._model

    @property
    def device(self) -> str:
        """Where it runs."""
        return device_name(self._torch, self._device)

    def run(self, images: NDArray[np.uint8], *, logits: bool = False) -> Prediction:
        """See ``Session.run``."""
        seen, self._seen = self._seen, None
        if seen is not None and np.array_equal(images, seen[0]):
            return seen[1]  # the very pass behind the picture that was segmented just before
        mask, raw = self._forward(self.stage(images).data)
        return Prediction(mask.cpu().numpy(), raw.cpu().numpy() if logits else None)

    def segment(self, data: bytes) -> Segmented:
        """Segment a picture as mmseg itself does: its transforms, its inference, its way back to the picture's own size.

        Nothing of segdeploy's resizing, windows or argmax has a part in it.

        Args:
            data: an image file.
        """
        with tempfile.NamedTemporaryFile() as file:  # the config's loader reads files
            file.write(data)
            file.flush()
            results: dict[str, Any] = {"img_path": file.name}
            for transform in self._pipeline:
                results = transform(results)
        bgr = results["inputs"]
        self._passes = 0
        with self._torch.inference_mode():
            sample = self._model.test_step({"inputs": [bgr.to(self._device)], "data_samples": [results["data_samples"]]})[0]
            image = np.ascontiguousarray(bgr.numpy()[::-1].transpose(1, 2, 0))
            if self._passes == 1:
                mask = self._labels(self._full, *image.shape[:2])
                self._seen = image[None], Prediction(mask.cpu().numpy(), self._logits.cpu().numpy())
            self._full = self._logits = None
        labels = sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8 if self._few_classes else np.int32)
        return Segmented(labels, partial(_logits_of, sample.seg_logits.data), image)

    def stage(self, images: NDArray[np.uint8]) -> Staged:
        """See ``Session.stage``: each image as mmseg's loader hands it over, BGR [3, H, W]."""
        images = checked_images(images, self.artifact.manifest)
        bgr = self._torch.from_numpy(np.ascontiguousarray(images[..., ::-1].transpose(0, 3, 1, 2))).to(self._device)
        synchronize(self._torch, self._device)
        count, height, width, _ = images.shape
        return Staged((count, height, width), bgr)

    def execute(self, staged: Staged) -> None:
        """See ``Session.execute``."""
        self._forward(staged.data)
        synchronize(self._torch, self._device)

    def _forward(self, bgr: Any) -> tuple[Any, Any]:
        with self._torch.inference_mode():
            samples = [self._sample() for _ in bgr]
            inputs = self._model.data_preprocessor({"inputs": list(bgr), "data_samples": samples})["inputs"]
            full = self._model.encode_decode(inputs, [{"img_shape": inputs.shape[2:]}])
            mask = self._labels(full, bgr.shape[2], bgr.shape[3])
            self._full, self._logits, logits = None, None, self._logits
            return mask, logits

    @property
    def _few_classes(self) -> bool:
        return len(self.artifact.manifest.classes) <= 256

    def _labels(self, full: Any, height: int, width: int) -> Any:
        """Labels [N, H, W] of logits at the network's size; mmseg pads at the right and at the bottom."""
        full = full[:, :, :height, :width]
        mask = full[:, 0].sigmoid() > self._head.threshold if full.shape[1] == 1 else full.argmax(1)
        return mask.to(self._torch.uint8 if self._few_classes else self._torch.int32)

    def _keep_full(self, inputs: Any, metas: Any) -> Any:
        """Stands before the model's own ``encode_decode``, for what it gives."""
        self._full = self._decode(inputs, metas)
        self._passes += 1
        return self._full

    def _keep_logits(self, logits: Any, metas: Any) -> Any:
        """Stands before the head's own ``predict_by_feat``, which is given the logits before upsampling."""
        self._logits = logits
        return self._resize_logits(logits, metas)

    def __enter__(self) -> EagerSession:
        """See ``Session``."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Free the model."""
        self._model = None


def _as_described(artifact: Artifact) -> Checkpoint:
    files = artifact.manifest.files
    checkpoint = load_checkpoint(artifact.model_path, files[1].path if len(files) > 1 else None)
    for file, sha256 in zip(files, (checkpoint.sha256, checkpoint.config_sha256), strict=False):
        if file.sha256 != sha256:
            raise ArtifactError(
                expected=f"'{file.path}' with the SHA-256 {file.sha256[:12]}",
                got=f"{str(sha256)[:12]}: it was replaced meanwhile",
                fix="run the command again",
            )
    return checkpoint


def _pipeline(config: Mapping[str, Any]) -> list[Any]:
    """The transforms of the test pipeline, mmseg's own; label maps are not loaded."""
    from mmseg.registry import TRANSFORMS

    loader = "test_dataloader" if config.get("test_dataloader") else "val_dataloader"
    found = [dataset["pipeline"] for dataset in datasets_of(config, loader) if dataset.get("pipeline")]
    steps = found[0] if found else config.get("test_pipeline") or _BARE_PIPELINE
    return [TRANSFORMS.build({**step, **_local(step)}) for step in steps if not step["type"].endswith("LoadAnnotations")]


def _local(step: Mapping[str, Any]) -> dict[str, None]:
    """The picture is a file here, wherever the config's data lie."""
    return {name: None for name in ("backend_args", "file_client_args") if name in step}


def _logits_of(found: Any) -> NDArray[np.float32]:
    """The logits [K, H, W] that mmseg gives of a picture; of a binary head they are its sigmoid."""
    values = found.cpu().numpy()
    if len(values) > 1:
        return np.asarray(values, np.float32)
    share = np.clip(values.astype(np.float64), 1e-12, 1 - 1e-12)
    return np.asarray(np.log(share / (1 - share)), np.float32)


BACKEND = Backend(
    name="eager",
    title="the checkpoint",
    extra="train",
    modules=("torch", "torchvision", "mmseg"),
    packages=("torch", "onedl-mmsegmentation"),
    open=EagerSession,
)
