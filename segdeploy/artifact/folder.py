"""An artifact: a folder with a model file and its manifest. Made whole or not at all; refused when altered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from segdeploy.artifact.manifest import FileEntry, Manifest, decode_manifest, encode_manifest
from segdeploy.artifact.verdict import Parity
from segdeploy.base.errors import ArtifactError
from segdeploy.base.files import new_folder, sha256_file, write_file

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """A model that can be opened as a Session.

    Attributes:
        folder: where its files lie.
        manifest: what it is.
    """

    folder: Path
    manifest: Manifest

    @property
    def model_path(self) -> Path:
        """The model file: the first that the manifest lists."""
        return self.folder / self.manifest.files[0].path

    @property
    def name(self) -> str:
        """For tables and messages."""
        return f"{self.manifest.name}/{self.manifest.label}"


def write_artifact(folder: Path, write_model: Callable[[Path], Manifest]) -> Artifact:
    """Write a new artifact atomically; an older one at the same place is replaced only when the new one is complete.

    Args:
        folder: where the artifact will lie.
        write_model: is given a temporary folder, writes ``model.*`` into it, and returns the manifest. Its ``files`` are
            filled in here: every file in the folder, the model first.

    Raises:
        InputError: where the folder cannot be written.
        ArtifactError: where it holds something else than an artifact.
    """
    if folder.exists() and not (folder / MANIFEST_NAME).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(
            expected=f"a new folder or an older artifact at '{folder}'",
            got="something else, which would be overwritten",
            fix="choose another place with --out",
        )
    with new_folder(folder) as temporary:
        manifest = write_model(temporary)
        files = sorted((p for p in temporary.rglob("*") if p.is_file()), key=lambda p: (p.stem != "model", p.name))
        entries = tuple(_entry(path, temporary) for path in files)
        manifest = msgspec.structs.replace(manifest, files=entries)
        write_file(temporary / MANIFEST_NAME, encode_manifest(manifest))
    return Artifact(folder, manifest)


def open_artifact(folder: Path, *, check_hashes: bool = True) -> Artifact:
    """Read an artifact and hold its files against the manifest.

    Args:
        folder: the artifact's folder.
        check_hashes: read every file in full; False only to show what a manifest says.

    Raises:
        ArtifactError: where it is missing, incomplete or altered.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise ArtifactError(
            expected=f"an artifact folder with {MANIFEST_NAME} at '{folder}'",
            got="no such file" if folder.is_dir() else "no such folder",
            fix="make one with: segdeploy export CHECKPOINT --to onnx",
        )
    manifest = decode_manifest(path.read_bytes(), str(path))
    if not manifest.files:
        raise ArtifactError(expected=f"a model file listed in '{path}'", got="none", fix="export it again")
    for entry in manifest.files:
        _check_file(folder, entry, check_hashes=check_hashes)
    return Artifact(folder, manifest)


def record_parity(artifact: Artifact, parity: Parity) -> Artifact:
    """Write a verdict into the artifact's manifest."""
    manifest = msgspec.structs.replace(artifact.manifest, parity=parity)
    write_file(artifact.folder / MANIFEST_NAME, encode_manifest(manifest))
    return Artifact(artifact.folder, manifest)


def record_unverified(artifact: Artifact) -> Artifact:
    """Write into the artifact's manifest that it was packed without a passed verdict; a later verdict does not take it back."""
    manifest = msgspec.structs.replace(artifact.manifest, packed_unverified=True)
    write_file(artifact.folder / MANIFEST_NAME, encode_manifest(manifest))
    return Artifact(artifact.folder, manifest)


def find_artifacts(root: Path) -> list[Artifact]:
    """Every artifact under a folder, by path."""
    return [open_artifact(path.parent) for path in sorted(root.glob(f"**/{MANIFEST_NAME}")) if _is_visible(path, root)]


def _is_visible(path: Path, root: Path) -> bool:
    # A leading dot marks the temporary folders of an export that is being written or was killed.
    return not any(part.startswith(".") for part in path.relative_to(root).parts)


def _entry(path: Path, folder: Path) -> FileEntry:
    return FileEntry(path=path.relative_to(folder).as_posix(), sha256=sha256_file(path), bytes=path.stat().st_size)


def _check_file(folder: Path, entry: FileEntry, *, check_hashes: bool) -> None:
    path = folder / entry.path
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ArtifactError(
            expected=f"files inside '{folder}'", got=f"'{entry.path}' in its manifest", fix="do not use this artifact"
        )
    if not path.is_file():
        raise ArtifactError(expected=f"the file '{path}'", got="it is missing", fix="export the artifact again")
    if path.stat().st_size != entry.bytes or (check_hashes and sha256_file(path) != entry.sha256):
        raise ArtifactError(
            expected=f"'{path}' as its manifest describes it (sha256 {entry.sha256[:12]}, {entry.bytes} bytes)",
            got="another content: it was changed or damaged after the export",
            fix="export it again, or copy the whole folder again",
        )
