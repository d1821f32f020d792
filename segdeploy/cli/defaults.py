"""What a command works on when the user names nothing: the newest checkpoint, the exports made so far."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from segdeploy.artifact.folder import MANIFEST_NAME, Artifact, Unopened, find_artifacts, open_artifact, try_artifact
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


def named_artifacts(paths: tuple[Path, ...], root: Path = EXPORTS) -> list[Artifact | Unopened]:
    """Open the artifacts that a user named, or all under ``exports``. A folder that holds several stands for all of them.

    Returns:
        Each folder once. One that cannot be opened has its place too: it never hides the others.

    Raises:
        ArtifactError: there is none at all, or none at a place that was named.
    """
    found: dict[Path, Artifact | Unopened] = {}
    for path in paths or (root,):
        nested = [] if (path / MANIFEST_NAME).is_file() else find_artifacts(path)
        if not nested and not paths:
            break
        if not nested and not (path / MANIFEST_NAME).is_file():
            open_artifact(path)  # a slip of the pen, said before any work is done
        for one in nested or [try_artifact(path)]:
            found.setdefault(one.folder.resolve(), one)
    if not found:
        raise ArtifactError(expected=f"an artifact under '{root}'", got="none", fix="make one with: segdeploy export --to onnx")
    return list(found.values())


def opened_artifacts(paths: tuple[Path, ...], root: Path = EXPORTS) -> list[Artifact]:
    """``named_artifacts``, less those that cannot be opened, of which a line on stderr says why.

    Raises:
        ArtifactError: none can be opened, or there is none.
    """
    found = named_artifacts(paths, root)
    for one in found:
        if isinstance(one, Unopened):
            click.echo(f"left out: '{one.folder}': {one.error}", err=True)
    opened = [one for one in found if isinstance(one, Artifact)]
    if not opened:
        raise next(one.error for one in found if isinstance(one, Unopened))
    return opened


def short_places(folders: Sequence[Path]) -> dict[Path, Path]:
    """A relative path for what is written about each of several artifacts' folders, as short as keeps them apart.

    Args:
        folders: different ones.

    Returns:
        folder -> its last parts, two at least where there are two: ``upernet/onnx-fp32``.
    """
    parts = {folder: folder.resolve().parts[1:] for folder in folders}
    depth = 2
    while len({one[-depth:] for one in parts.values()}) < len(parts):
        depth += 1
    return {folder: Path(*one[-depth:]) for folder, one in parts.items()}
