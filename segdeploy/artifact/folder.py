"""An artifact: a folder with a model file and its manifest. Made whole or not at all; refused when altered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from segdeploy.artifact.manifest import FileEntry, Manifest, decode_manifest, encode_manifest
from segdeploy.artifact.verdict import Parity
from segdeploy.base.errors import ArtifactError
from segdeploy.base.files import sha256_file, write_file
from segdeploy.base.folders import locked_folder, new_folder

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
        InputError: where the folder cannot be written, or holds something else than an artifact.
    """
    with new_folder(folder, "an artifact", _is_artifact) as temporary:
        manifest = write_model(temporary)
        files = sorted((path for path in temporary.rglob("*") if path.is_file()), key=_order)
        entries = tuple(_entry(path, temporary) for path in files)
        manifest = msgspec.structs.replace(manifest, files=entries)
        write_file(temporary / MANIFEST_NAME, encode_manifest(manifest))
    return Artifact(folder, manifest)


def _order(path: Path) -> tuple[bool, bool, str]:
    """The model first; of two files of its stem (OpenVINO's) the one that describes the network, not its weights."""
    return path.stem != "model", path.suffix == ".bin", path.name


def open_artifact(folder: Path, *, check_hashes: bool = True) -> Artifact:
    """Read an artifact and hold its files against the manifest.

    Args:
        folder: the artifact's folder.
        check_hashes: read every file in full; False only to show what a manifest says.

    Raises:
        ArtifactError: where it is missing, incomplete or altered.
    """
    manifest = _read_manifest(folder)
    for entry in manifest.files:
        _check_file(folder, entry, check_hashes=check_hashes)
    return Artifact(folder, manifest)


def record_parity(artifact: Artifact, parity: Parity) -> Artifact:
    """Add a verdict to the history in the artifact's manifest.

    Args:
        artifact: as it was opened for the verdict.
        parity: the verdict; the hashes that it is bound to are filled in here.

    Raises:
        ArtifactError: the artifact was replaced or altered meanwhile; what lies there now is left alone.
        InputError: the folder cannot be written.
    """
    bound = msgspec.structs.replace(parity, files=artifact.manifest.hashes)
    return _amend(artifact, lambda found: msgspec.structs.replace(found, parity=(*found.parity, bound)))


def record_packed(artifact: Artifact, despite: Sequence[str]) -> Artifact:
    """Add to the artifact's manifest what it was packed in spite of; no later verdict takes it back.

    Raises:
        ArtifactError: as ``record_parity``.
        InputError: likewise.
    """

    def amend(found: Manifest) -> Manifest:
        new = [one for one in despite if one not in found.packed_despite]
        return msgspec.structs.replace(found, packed_despite=(*found.packed_despite, *new))

    return _amend(artifact, amend)


@dataclass(frozen=True)
class Unopened:
    """An artifact that cannot be opened here; the others beside it can.

    Attributes:
        folder: where it lies.
        error: why.
        manifest: what it is; None where that cannot be read either.
    """

    folder: Path
    error: ArtifactError
    manifest: Manifest | None

    @property
    def name(self) -> str:
        """For tables and messages."""
        return f"{self.manifest.name}/{self.manifest.label}" if self.manifest else str(self.folder)


def try_artifact(folder: Path) -> Artifact | Unopened:
    """Open an artifact, or say why it cannot be opened."""
    try:
        return open_artifact(folder)
    except ArtifactError as error:
        return Unopened(folder, error, _readable_manifest(folder))


def find_artifacts(root: Path) -> list[Artifact | Unopened]:
    """Every artifact under a folder, by path, through links to folders too; one that is broken never hides the others."""
    return [try_artifact(folder) for folder in sorted(_artifact_folders(root, ()))]


def _artifact_folders(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    real = folder.resolve()
    if real in above or not folder.is_dir():  # a link to a folder above it has no end
        return
    if (folder / MANIFEST_NAME).is_file():
        yield folder
    try:
        # A leading dot marks the temporary folders of an export that is being written or was killed.
        nested = [one for one in folder.iterdir() if not one.name.startswith(".") and one.is_dir()]
    except OSError:
        return
    for one in nested:
        yield from _artifact_folders(one, (*above, real))


def _readable_manifest(folder: Path) -> Manifest | None:
    try:
        return decode_manifest((folder / MANIFEST_NAME).read_bytes(), str(folder))
    except (OSError, ArtifactError):
        return None


def _amend(artifact: Artifact, change: Callable[[Manifest], Manifest]) -> Artifact:
    """Change what the manifest on disk says now, not what it said when the artifact was opened: others add to it too."""
    path = artifact.folder / MANIFEST_NAME
    _read_manifest(artifact.folder)  # one that is gone altogether has nothing to lock
    with locked_folder(artifact.folder):
        found = _read_manifest(artifact.folder)
        if found.hashes != artifact.manifest.hashes:
            raise ArtifactError(
                expected=f"the files in '{artifact.folder}' that were opened (sha256 {artifact.manifest.hashes[0][:12]})",
                got=f"others, exported there meanwhile (sha256 {(found.hashes or ('none',))[0][:12]})",
                fix="its manifest was left as it is: do the same again for the new artifact",
            )
        manifest = change(found)
        write_file(path, encode_manifest(manifest))
    return Artifact(artifact.folder, manifest)


def _is_artifact(folder: Path) -> bool:
    """Whether its manifest is one of ours, of whatever schema; other programs have a ``manifest.json`` too."""
    try:
        values = msgspec.json.decode((folder / MANIFEST_NAME).read_bytes(), type=dict[str, msgspec.Raw])
    except (OSError, msgspec.DecodeError):
        return False
    return {"schema", "format", "precision", "files", "lineage"} <= values.keys()


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise ArtifactError(
            expected=f"an artifact folder with {MANIFEST_NAME} at '{folder}'",
            got="no such file" if folder.is_dir() else "no such folder",
            fix="make one with: segdeploy export CHECKPOINT --to onnx",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            expected=f"to read '{path}'", got=error.strerror or str(error), fix="change its permissions"
        ) from error
    manifest = decode_manifest(data, str(path))
    if not manifest.files:
        raise ArtifactError(expected=f"a model file listed in '{path}'", got="none", fix="export it again")
    return manifest


def _entry(path: Path, folder: Path) -> FileEntry:
    return FileEntry(path=path.relative_to(folder).as_posix(), sha256=sha256_file(path), bytes=path.stat().st_size)


def _check_file(folder: Path, entry: FileEntry, *, check_hashes: bool) -> None:
    # A link may lead anywhere, as in stores that keep every content once: what it leads to is held by its hash.
    named = PurePosixPath(entry.path)
    if named.is_absolute() or ".." in named.parts or "\\" in entry.path:
        raise ArtifactError(
            expected=f"files inside '{folder}'", got=f"'{entry.path}' in its manifest", fix="do not use this artifact"
        )
    path = folder / named
    if not path.is_file():
        raise ArtifactError(expected=f"the file '{path}'", got="it is missing", fix="export the artifact again")
    try:
        same = path.stat().st_size == entry.bytes and not (check_hashes and sha256_file(path) != entry.sha256)
    except OSError as error:
        raise ArtifactError(
            expected=f"to read '{path}'", got=error.strerror or str(error), fix="change its permissions"
        ) from error
    if not same:
        raise ArtifactError(
            expected=f"'{path}' as its manifest describes it (sha256 {entry.sha256[:12]}, {entry.bytes} bytes)",
            got="another content: it was changed or damaged after the export",
            fix="export it again, or copy the whole folder again",
        )
