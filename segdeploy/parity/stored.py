"""Outputs of the reference on disk: made where mmseg is, used on a machine that has no more than the artifact and a GPU.

The folder holds the pictures as decoded (another version of the JPEG decoder gives other pixels), their label maps, and for
every forward pass the outputs, found again by the hash of its input. A run on the other machine asks for the very same
inputs, or it is told that it does not.
"""

from __future__ import annotations

import hashlib
import io
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import FileEntry, Manifest, upgrade
from segdeploy.base.errors import ArtifactError, InputError
from segdeploy.base.files import sha256_file, write_file
from segdeploy.base.records import Struct
from segdeploy.images.arrays import Logits
from segdeploy.images.dataset import read_label
from segdeploy.images.decode import MAX_PIXELS, read_image
from segdeploy.images.label_png import encode_png
from segdeploy.parity.comparison import margins
from segdeploy.parity.inputs import Inputs, Picture
from segdeploy.parity.measure import Question
from segdeploy.parity.sessions import Original
from segdeploy.runtime import Prediction, Staged
from segdeploy.runtime.session import Segmented

INDEX_NAME = "reference.json"
_SCHEMA = 1


class _StoredPicture(Struct, frozen=True):
    name: str
    image: FileEntry
    label: FileEntry | None


class _Index(Struct, frozen=True):
    """``reference.json``.

    ``outputs`` of forward passes, and what mmseg ``segmented``, by the hash of their input; ``every`` picture, or one batch,
    was run at each shape.
    """

    schema: int
    model: Manifest
    device: str
    inputs: str
    pictures: tuple[_StoredPicture, ...]
    shapes: tuple[tuple[int, int, int], ...]
    every: bool
    outputs: dict[str, FileEntry]
    segmented: dict[str, FileEntry]


class SavingSession:
    """A session that writes what it answers into a folder."""

    def __init__(self, session: Original, folder: Path) -> None:
        self._session, self._folder = session, folder
        self.artifact = session.artifact
        self._outputs: dict[str, FileEntry] = {}
        self._segmented: dict[str, FileEntry] = {}  # by the hash of the picture's file

    @property
    def device(self) -> str:
        """See ``Session``."""
        return self._session.device

    def run(self, images: NDArray[np.uint8], *, logits: bool = False) -> Prediction:
        """See ``Session.run``; logits are always brought, and stored."""
        del logits
        prediction = self._session.run(images, logits=True)
        assert prediction.logits is not None
        key = _key(images)
        stream = io.BytesIO()
        np.savez_compressed(stream, mask=prediction.mask, logits=prediction.logits)
        self._outputs[key] = self._write(f"outputs/{key[:32]}.npz", stream.getvalue())
        return prediction

    def segment(self, data: bytes) -> Segmented:
        """See ``Original.segment``. Of the logits, what decides is stored: the largest, and by how much each label won."""
        found = self._session.segment(data)
        logits = found.logits()
        stream = io.BytesIO()
        largest = float(np.abs(np.where(np.isfinite(logits), logits, 0)).max())
        margin = margins(logits, self.artifact.manifest.postprocess.cutoff).astype(np.float32)
        np.savez_compressed(stream, labels=found.labels, margin=margin, largest=largest)
        key = hashlib.sha256(data).hexdigest()
        self._segmented[key] = self._write(f"segmented/{key[:32]}.npz", stream.getvalue())
        return found

    def finish(self, asked: Question) -> None:
        """Write the pictures and the index."""
        stored, segmented = [], {}
        for index, picture in enumerate(asked.inputs.pictures):
            image = self._write(f"pictures/{index:06}.png", encode_png(picture.read()))
            # There the picture is the file that is written here.
            segmented[image.sha256] = self._segmented[hashlib.sha256(picture.encoded()).hexdigest()]
            label = None
            if picture.truth is not None:
                label = self._write(f"labels/{index:06}.png", _label_file(picture.truth()))
            stored.append(_StoredPicture(name=picture.name, image=image, label=label))
        content = _Index(
            schema=_SCHEMA,
            model=self.artifact.manifest,
            device=self.device,
            inputs=asked.inputs.described,
            pictures=tuple(stored),
            shapes=asked.shapes,
            every=asked.every,
            outputs=self._outputs,
            segmented=segmented,
        )
        write_file(self._folder / INDEX_NAME, msgspec.json.format(msgspec.json.encode(content), indent=1))

    def stage(self, images: NDArray[np.uint8]) -> Staged:
        """See ``Session.stage``."""
        return self._session.stage(images)

    def execute(self, staged: Staged) -> None:
        """See ``Session.execute``."""
        self._session.execute(staged)

    def _write(self, name: str, data: bytes) -> FileEntry:
        write_file(self._folder / name, data)
        return FileEntry(path=name, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))

    def __enter__(self) -> SavingSession:
        """See ``Session``."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing of its own to free."""


class StoredReference:
    """A session that answers from such a folder."""

    def __init__(self, folder: Path, max_pixels: int = MAX_PIXELS) -> None:
        """Read the index; ``max_pixels`` is the limit of ``decode_image``.

        Raises:
            InputError: there is none, or it is damaged.
        """
        self._folder, self._max_pixels = folder, max_pixels
        fix = "make one with: segdeploy verify ARTIFACT --save-reference DIR"
        try:
            values = msgspec.json.decode((folder / INDEX_NAME).read_bytes(), type=dict[str, Any])
            self._index = msgspec.convert({**values, "model": upgrade(values.get("model") or {})}, _Index)
        except OSError as error:
            raise InputError(
                expected=f"a stored reference with {INDEX_NAME} at '{folder}'", got=str(error.strerror).lower(), fix=fix
            ) from error
        except msgspec.MsgspecError as error:
            raise InputError(expected=f"a stored reference at '{folder}'", got=str(error), fix=fix) from error
        self.artifact = Artifact(folder, self._index.model)

    @property
    def device(self) -> str:
        """Where the reference ran."""
        return self._index.device

    @property
    def question(self) -> Question:
        """What it answers: its pictures and shapes."""
        pictures = tuple(self._picture(one) for one in self._index.pictures)
        described = f"{self._index.inputs} (stored)"
        return Question(Inputs(described, pictures), self._index.shapes, self._index.every)

    def check_belongs(self, artifact: Artifact) -> None:
        """Hold it against the checkpoint that an artifact was made from.

        Raises:
            ArtifactError: it is another's.
        """
        ours, theirs = artifact.manifest.lineage.checkpoint_sha256, self._index.model.lineage.checkpoint_sha256
        if ours != theirs:
            raise ArtifactError(
                expected=f"a reference of the checkpoint that {artifact.name} was made from (sha256 {(ours or '')[:12]})",
                got=f"one of another at '{self._folder}' (sha256 {(theirs or '')[:12]})",
                fix="store the right one with --save-reference",
            )

    def run(self, images: NDArray[np.uint8], *, logits: bool = False) -> Prediction:
        """See ``Session.run``.

        Raises:
            InputError: this input was not stored.
        """
        del logits
        entry = self._index.outputs.get(_key(images))
        if entry is None:
            count, height, width, _ = images.shape
            raise InputError(
                expected=f"an input that the reference at '{self._folder}' was stored for",
                got=f"another batch of {count} x {height}x{width}",
                fix="store it for this artifact with --save-reference",
            )
        with np.load(self._checked(entry), allow_pickle=False) as content:
            return Prediction(content["mask"], content["logits"])

    def segment(self, data: bytes) -> Segmented:
        """See ``Original.segment``.

        Raises:
            InputError: this picture was not stored.
        """
        entry = self._index.segmented.get(hashlib.sha256(data).hexdigest())
        if entry is None:
            raise InputError(
                expected=f"a picture that the reference at '{self._folder}' was stored for",
                got="another one",
                fix="store it for this artifact with --save-reference",
            )
        with np.load(self._checked(entry), allow_pickle=False) as content:
            labels, margin, largest = content["labels"], content["margin"], float(content["largest"])
        return Segmented(labels, partial(_logits_like, labels, margin, largest, self.artifact.manifest))

    def stage(self, images: NDArray[np.uint8]) -> Staged:
        """See ``Session.stage``."""
        count, height, width, _ = images.shape
        return Staged((count, height, width), images)

    def execute(self, staged: Staged) -> None:
        """See ``Session.execute``."""
        self.run(staged.data)

    def _picture(self, stored: _StoredPicture) -> Picture:
        def read() -> Any:
            return read_image(self._checked(stored.image), max_pixels=self._max_pixels)

        truth = partial(self._truth, stored.label) if stored.label is not None else None
        return Picture(stored.name, read, lambda: self._checked(stored.image).read_bytes(), truth)

    def _truth(self, entry: FileEntry) -> Any:
        return read_label(self._checked(entry), max_pixels=self._max_pixels)

    def _checked(self, entry: FileEntry) -> Path:
        path = self._folder / entry.path
        if not path.resolve().is_relative_to(self._folder.resolve()) or not path.is_file():
            raise InputError(expected=f"the file '{path}'", got="it is missing", fix="copy the whole folder again")
        if path.stat().st_size != entry.bytes or sha256_file(path) != entry.sha256:
            raise InputError(
                expected=f"'{path}' as it was stored (sha256 {entry.sha256[:12]})",
                got="another content",
                fix="copy the whole folder again",
            )
        return path

    def __enter__(self) -> StoredReference:
        """See ``Session``."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing to free."""


def stored_reference(folder: Path, place: Path, max_pixels: int = MAX_PIXELS) -> StoredReference:
    """The reference in a folder, or, where several artifacts stored theirs under it, the one at this artifact's place.

    Raises:
        InputError: there is none.
    """
    own = folder / place
    nested = not (folder / INDEX_NAME).is_file() and (own / INDEX_NAME).is_file()
    return StoredReference(own if nested else folder, max_pixels)


def _logits_like(labels: NDArray[Any], margin: NDArray[np.float32], largest: float, manifest: Manifest) -> Logits:
    """Logits [K, H, W] that win by the stored margins over every other class: by the second best one's, over any."""
    cutoff = manifest.postprocess.cutoff
    if cutoff is not None:
        return np.asarray(cutoff + np.where(labels > 0, margin, -margin), np.float32)[None]
    logits = np.broadcast_to(largest - margin, (len(manifest.classes), *labels.shape)).astype(np.float32)
    np.put_along_axis(logits, labels[None].astype(np.int64), np.float32(largest), axis=0)
    return logits


def _key(images: NDArray[np.uint8]) -> str:
    return hashlib.sha256(repr(images.shape).encode() + np.ascontiguousarray(images).tobytes()).hexdigest()


def _label_file(labels: NDArray[Any]) -> bytes:
    """A grey PNG of a label map, void and all, of 16 bits where 8 do not do."""
    from PIL import Image

    stream = io.BytesIO()
    narrow = labels.max(initial=0) < 256
    Image.fromarray(labels.astype(np.uint8 if narrow else np.uint16)).save(stream, "PNG")
    return stream.getvalue()
