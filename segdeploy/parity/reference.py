"""The original that a candidate is held against: mmseg's own model, run by PyTorch here or before on another machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segdeploy.artifact.folder import Artifact
from segdeploy.base.errors import ArtifactError, CheckpointError
from segdeploy.base.files import sha256_file
from segdeploy.parity.inputs import Inputs, default_pictures
from segdeploy.parity.measure import Question, question
from segdeploy.parity.sessions import Original
from segdeploy.parity.stored import StoredReference
from segdeploy.runtime.open import Device, eager_artifact, open_session


def find_reference(artifact: Artifact, checkpoint: Path | None = None) -> Path:
    """The checkpoint that an artifact is held against: the one named, or the one it remembers.

    Raises:
        CheckpointError: it is not there any more.
        ArtifactError: it is not the one that the artifact was made from.
    """
    lineage = artifact.manifest.lineage
    path = checkpoint or (Path(lineage.checkpoint) if lineage.checkpoint else None)
    if path is None or not path.is_file():
        raise CheckpointError(
            expected=f"the checkpoint that {artifact.name} was made from",
            got=f"no file at '{path}'" if path else "none recorded (random weights)",
            fix="name it with --checkpoint FILE, or pass what --save-reference wrote elsewhere with --reference DIR",
        )
    if sha256_file(path) != lineage.checkpoint_sha256:
        raise ArtifactError(
            expected=f"the checkpoint that {artifact.name} was made from (sha256 {(lineage.checkpoint_sha256 or '')[:12]})",
            got=f"another one at '{path}'",
            fix="name the right one with --checkpoint FILE, or export again",
        )
    return path


def find_original(
    artifact: Artifact,
    *,
    checkpoint: Path | None = None,
    config: str | None = None,
    inputs: Inputs | None = None,
    shapes: Sequence[tuple[int, int, int]] | None = None,
    stored: StoredReference | None = None,
) -> tuple[Artifact, Question]:
    """The reference, and what it is asked; stored outputs answer their own question only.

    Raises:
        CheckpointError: the reference is gone or damaged.
        ArtifactError: the reference is another checkpoint's.
    """
    if stored is not None:
        stored.check_belongs(artifact)
        return stored.artifact, stored.question
    original = eager_artifact(find_reference(artifact, checkpoint), config)
    return original, question(artifact.manifest, inputs or default_pictures(artifact.manifest), shapes)


def open_original(original: Artifact, device: Device = "auto", stored: StoredReference | None = None) -> Original:
    """The reference itself, or what is stored of it.

    Raises:
        BackendError: PyTorch cannot run here.
    """
    if stored is not None:
        return stored
    from segdeploy.runtime.backends.eager import EagerSession

    session = open_session(original, device)
    assert isinstance(session, EagerSession)
    return session


def describe_reference(original: Artifact, stored: StoredReference | None) -> str:
    """For the record."""
    return f"{'stored outputs of ' if stored else ''}eager, checkpoint sha256 {original.manifest.files[0].sha256[:12]}"
