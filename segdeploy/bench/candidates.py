"""What to measure: the artifacts, and the checkpoint that each of them came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from segdeploy.artifact.folder import Artifact, Unopened
from segdeploy.artifact.manifest import BACKENDS
from segdeploy.base.errors import BackendError, InputError, SegdeployError
from segdeploy.base.files import sha256_file
from segdeploy.bench.run import Candidate, Missing
from segdeploy.bench.variants import EAGER_NAMES, EAGER_VARIATIONS, EagerVariation, Variant
from segdeploy.images.dataset import Sample, find_samples
from segdeploy.runtime.backend import find_backend
from segdeploy.runtime.open import eager_artifact


@dataclass(frozen=True)
class LabelledData:
    """Images to evaluate on.

    Attributes:
        samples: images with labels; empty where there are none.
        name: the folder and the split.
        missing: why there are none.
    """

    samples: Sequence[Sample] = field(default=())
    name: str = ""
    missing: str = ""


def choose_candidates(
    artifacts: Sequence[Artifact],
    backends: Sequence[str] = (),
    checkpoint: Path | None = None,
    config: str | None = None,
) -> list[Candidate]:
    """The eager reference of every model first, then the artifacts; of the named backends only, where any are named.

    Args:
        artifacts: exported ones.
        backends: names out of ``BACKENDS`` and ``EAGER_NAMES``; none for all of the first.
        checkpoint: of the reference; None for the one that the artifacts remember, where it is still the same file.
        config: of the checkpoint, where it carries none.

    Raises:
        BackendError: a name is unknown, or no artifact of a named backend was given.
        InputError: the named checkpoint is not what any of the artifacts was exported from.
        CheckpointError: the named checkpoint cannot be loaded.
    """
    for name in backends:
        if name in EAGER_NAMES:
            continue
        find_backend(name)
        if not any(one.manifest.format == name for one in artifacts):
            raise BackendError(
                expected=f"an exported artifact of the backend '{name}'",
                got=", ".join(sorted({one.manifest.format for one in artifacts})) + " only",
                fix=f"make one with: segdeploy export --to {name}",
            )
    wanted = backends or BACKENDS
    references: list[Candidate] = []
    for one in _references(artifacts, checkpoint, config) if any(name in EAGER_NAMES for name in wanted) else []:
        references += [one] if "eager" in wanted else []
        references += [_varied(one, way) for way in EAGER_VARIATIONS if f"eager-{way}" in wanted]
    return [*references, *(one for one in artifacts if one.manifest.format in wanted)]


def missing_artifacts(unopened: Sequence[Unopened], backends: Sequence[str] = ()) -> list[Candidate]:
    """The rows of artifacts that cannot be opened; of the named backends only, where any are named and the format is known."""
    return [
        Missing(
            model=one.manifest.name if one.manifest else one.folder.name,
            backend=one.manifest.format if one.manifest else "unknown",
            precision=one.manifest.precision if one.manifest else "fp32",
            checkpoint_sha256=one.manifest.lineage.checkpoint_sha256 if one.manifest else None,
            reason=str(one.error),
            folder=str(one.folder),
        )
        for one in unopened
        if not backends or one.manifest is None or one.manifest.format in backends
    ]


def find_data(artifacts: Sequence[Artifact], root: Path | None, split: str) -> LabelledData:
    """The labelled images of a folder, or of the data set that the models were validated on.

    Args:
        artifacts: whose manifests may name a data set.
        root: the folder that the user named; None for the one in the manifests, where it exists.
        split: such as ``val``.

    Raises:
        InputError: the named folder is not a data set, or the models read it in different ways. One that only a manifest
            names may be missing.
    """
    if root is not None:
        return LabelledData(_samples(artifacts, root, split), f"{root} ({split})")
    remembered = {one.manifest.lineage.data_root for one in artifacts}
    if len(remembered) > 1:
        return LabelledData(missing="the models were validated on different data sets: pass --data DIR")
    name = next(iter(remembered), None)
    if name is None or not Path(name).is_dir():
        return LabelledData(missing="no data set here: pass --data DIR")
    try:
        return LabelledData(_samples(artifacts, None, split), f"{name} ({split})")
    except InputError as error:
        return LabelledData(missing=str(error))


def _samples(artifacts: Sequence[Artifact], root: Path | None, split: str) -> Sequence[Sample]:
    ways = {(one.manifest.layouts, one.manifest.lineage.data_root): one.manifest for one in artifacts}
    first, *others = [find_samples(root, split, one) for one in ways.values()] or [find_samples(root, split)]
    if any(other != first for other in others):
        raise InputError(
            expected=f"models that read the split '{split}' in one way",
            got="configs that name other images, or other meanings of their labels",
            fix="benchmark them one by one",
        )
    return first


def _references(artifacts: Sequence[Artifact], checkpoint: Path | None, config: str | None) -> list[Candidate]:
    first = {one.manifest.lineage.checkpoint_sha256: one for one in reversed(artifacts)}
    if checkpoint is None:
        return [_remembered(first[sha256], config) for sha256 in reversed(first)]
    reference = eager_artifact(checkpoint, config)
    if reference.manifest.lineage.checkpoint_sha256 not in first:
        raise InputError(
            expected="the checkpoint that the artifacts were exported from",
            got=f"another one, '{checkpoint}'",
            fix="pass the right --checkpoint, or export this one with: segdeploy export",
        )
    return [reference]


def _varied(reference: Candidate, variation: EagerVariation) -> Candidate:
    if isinstance(reference, Missing):
        return replace(reference, variation=variation)
    return Variant(reference.folder, reference.manifest, variation)


def _remembered(artifact: Artifact, config: str | None) -> Candidate:
    """The checkpoint of an artifact, or why there is no reference."""
    lineage = artifact.manifest.lineage
    path = Path(lineage.checkpoint) if lineage.checkpoint else None
    try:
        if path is None:
            reason = "its manifest names no checkpoint; pass one with --checkpoint"
        elif not path.is_file():
            reason = f"the checkpoint '{path}' is not here; pass it with --checkpoint"
        elif sha256_file(path) != lineage.checkpoint_sha256:
            reason = f"the checkpoint '{path}' has changed since the export; pass the right one with --checkpoint"
        else:
            return eager_artifact(path, config)
    except SegdeployError as error:
        reason = str(error)
    return Missing(artifact.manifest.name, "eager", "fp32", lineage.checkpoint_sha256, reason)
