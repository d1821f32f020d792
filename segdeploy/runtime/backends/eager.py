"""The reference: mmseg's own model, with mmseg's own preprocessing and pooling, as the checkpoint has it.

It shares no code with the deploy graph on purpose: what the exporters are held against must not carry their faults.
"""

from __future__ import annotations

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
from segdeploy.models.describe import default_name, describe
from segdeploy.runtime.backend import Backend
from segdeploy.runtime.backends.torch_device import device_name, import_torch, pick_device, synchronize
from segdeploy.runtime.session import Prediction, Staged, checked_images


def describe_checkpoint(path: Path, config: str | None = None) -> Artifact:
    """A checkpoint as an Artifact of format ``eager``. With a config of its own, that file is listed second.

    Raises:
        CheckpointError: it cannot be loaded.
        ConfigError: its config cannot be used.
    """
    checkpoint = load_checkpoint(path, config)
    assert checkpoint.sha256 is not None
    files = [FileEntry(path=path.name, sha256=checkpoint.sha256, bytes=path.stat().st_size)]
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
        self._model: Any = build_model(_as_described(artifact)).to(self._device)
        from mmseg.structures import SegDataSample

        self._sample = SegDataSample
        head = self._model.decode_head
        self._head: Any = head[-1] if isinstance(head, self._torch.nn.ModuleList) else head  # of a cascade, the last
        self._resize_logits, self._head.predict_by_feat = self._head.predict_by_feat, self._keep_logits
        self._logits: Any = None

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
        mask, raw = self._forward(self.stage(images).data)
        return Prediction(mask.cpu().numpy(), raw.cpu().numpy() if logits else None)

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
            full = full[:, :, : bgr.shape[2], : bgr.shape[3]]  # mmseg pads at the right and at the bottom
            binary = full.shape[1] == 1
            mask = full[:, 0].sigmoid() > self._head.threshold if binary else full.argmax(1)
            kind = self._torch.uint8 if len(self.artifact.manifest.classes) <= 256 else self._torch.int32
            logits, self._logits = self._logits, None
            return mask.to(kind), logits

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


BACKEND = Backend(
    name="eager",
    title="the checkpoint",
    extra="train",
    modules=("torch", "torchvision", "mmseg"),
    packages=("torch", "onedl-mmsegmentation"),
    open=EagerSession,
)
