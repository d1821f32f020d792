"""What a command works on when the user names nothing: the newest checkpoint, the exports made so far."""

from __future__ import annotations

from pathlib import Path

from segdeploy.artifact.folder import MANIFEST_NAME, Artifact, find_artifacts, open_artifact
from segdeploy.base.errors import ArtifactError, CheckpointError
from segdeploy.models.checkpoint import WORK_DIRS

EXPORTS = Path("exports")


def newest_checkpoint(root: Path = WORK_DIRS) -> Path:
    """The checkpoint to take where none was named: of the newest run, the best one, else the last.

    Raises:
        CheckpointError: there is none.
    """
    found = sorted(root.glob("**/*.pth"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise CheckpointError(
            expected=f"a checkpoint under '{root}'",
            got="none",
            fix="name one, or train one with: segdeploy train upernet_r18_synthetic",
        )
    folder = found[-1].parent
    best = [path for path in found if path.parent == folder and path.name.startswith("best_")]
    return (best or found)[-1]


def named_artifacts(paths: tuple[Path, ...], root: Path = EXPORTS) -> list[Artifact]:
    """Open the artifacts that a user named, or all under ``exports``. A folder that holds several stands for all of them.

    Raises:
        ArtifactError: one cannot be opened, or there is none.
    """
    found: list[Artifact] = []
    for path in paths or (root,):
        nested = [] if (path / MANIFEST_NAME).is_file() else find_artifacts(path)
        if not nested and not paths:
            break
        found += nested or [open_artifact(path)]
    if not found:
        raise ArtifactError(expected=f"an artifact under '{root}'", got="none", fix="make one with: segdeploy export --to onnx")
    return found
