"""The command that makes an artifact again, for another place: what an error tells a user to type."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from segdeploy.artifact.engine import profile_text
from segdeploy.artifact.manifest import Bounds, Manifest


def export_command(manifest: Manifest, to: str, targets: Sequence[str] = ()) -> str:
    """The ``segdeploy export`` that makes an artifact like this one from the same checkpoint.

    Args:
        manifest: of the artifact.
        to: the format.
        targets: GPU architectures to compile for ahead of time; none for the GPU of the machine that runs it.
    """
    # A precision of what one runtime does with a float32 graph is none of another's.
    lost = ["--precision"] if manifest.precision == "bf16" and to != manifest.format else []
    if manifest.lineage.command is not None:
        kept = _without(shlex.split(manifest.lineage.command), "--to", "--target", *lost)
        return shlex.join([*kept, "--to", to, *_targets(targets)])
    words = ["segdeploy", "export", manifest.lineage.checkpoint or "CHECKPOINT", "--to", to, "--name", manifest.name]
    if manifest.precision != "fp32" and not lost:
        words += ["--precision", manifest.precision]
    if manifest.precision == "int8" and manifest.lineage.data_root:
        words += ["--data", manifest.lineage.data_root]
    if manifest.engine is not None:
        for profile in manifest.engine.profiles:
            words += ["--profile", profile_text(profile)]
        step = max((axis.step for axis in manifest.input.shape if isinstance(axis, Bounds)), default=1)
        words += ["--multiple", str(step)] if step > 1 else []
        if to == manifest.format:  # how an engine is compiled says nothing to another format
            words += ["--typing", "weak"] if manifest.engine.typing == "weak" else []
            limit = manifest.engine.workspace_bytes
            words += ["--workspace", str(limit >> 20)] if limit is not None else []
    return shlex.join([*words, *_targets(targets)])


def _targets(targets: Sequence[str]) -> list[str]:
    return ["--target", ",".join(targets)] if targets else []


def _without(words: Sequence[str], *options: str) -> list[str]:
    """Leave out options and their values."""
    return [word for before, word in zip(["", *words], words, strict=False) if word not in options and before not in options]
