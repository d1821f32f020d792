"""Hold an artifact against the checkpoint that it came from, on real images, over several shapes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segdeploy.core.artifact import Artifact, record_parity
from segdeploy.core.errors import ArtifactError, BackendError, CheckpointError
from segdeploy.core.files import sha256_file
from segdeploy.core.imaging import list_images, read_image, resize_image
from segdeploy.core.manifest import Manifest, Parity, ShapeParity
from segdeploy.core.parity import TOLERANCES, Outputs, ShapeComparison, overall
from segdeploy.core.progress import progress_bar
from segdeploy.export.shapes import bounds, nearest
from segdeploy.runtime import Session, open_session
from segdeploy.runtime.open import Device, eager_artifact

_NOISE_IMAGES = 8
# Beside the artifact's own best size: odd ones, portrait and landscape, below and above, since a size that is no multiple of
# the network's stride is where pooling and resizing go wrong. As (N, height, width) with sides relative to the best size.
_RELATIVE_SHAPES = ((1, 1.0, 1.0), (1, 0.63, 0.87), (2, 1.31, 0.71), (3, 0.5, 0.5), (1, 1.47, 1.93), (2, 0.77, 1.29))


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
            fix="name it with --checkpoint FILE",
        )
    if sha256_file(path) != lineage.checkpoint_sha256:
        raise ArtifactError(
            expected=f"the checkpoint that {artifact.name} was made from (sha256 {(lineage.checkpoint_sha256 or '')[:12]})",
            got=f"another one at '{path}'",
            fix="name the right one with --checkpoint FILE, or export again",
        )
    return path


def default_shapes(manifest: Manifest) -> list[tuple[int, int, int]]:
    """(N, H, W) to verify at: the artifact's best size, and others as far as its axes are dynamic."""
    batch, height, width = manifest.input.shape[:3]
    found = []
    for count, tall, wide in _RELATIVE_SHAPES:
        shape = (
            nearest(batch, count),
            nearest(height, round(bounds(height)[1] * tall)),
            nearest(width, round(bounds(width)[1] * wide)),
        )
        if shape not in found:
            found.append(shape)
    return found


def verify(
    artifact: Artifact,
    *,
    checkpoint: Path | None = None,
    config: str | None = None,
    images: Path | None = None,
    limit: int = 8,
    shapes: Sequence[tuple[int, int, int]] | None = None,
    device: Device = "auto",
    record: bool = True,
) -> Parity:
    """Run the checkpoint and the artifact on the same images, and judge.

    Args:
        artifact: what may replace the checkpoint.
        checkpoint: the reference; None for the one it was made from.
        config: the checkpoint's config, where it carries none.
        images: a folder of pictures; None for seeded noise, which the verdict then says.
        limit: how many pictures a shape.
        shapes: (N, H, W) to try; None for ``default_shapes``.
        device: where both run.
        record: write the verdict into the artifact's manifest.

    Returns:
        The verdict. ``skipped``, with the reason, where the artifact cannot run on this machine.

    Raises:
        CheckpointError: the reference is gone or damaged.
        ArtifactError: the reference is another checkpoint's.
        InputError: there are no images.
    """
    manifest = artifact.manifest
    tolerance = TOLERANCES[manifest.precision]
    pictures = [read_image(path) for path in list_images(images)[:limit]] if images else _noise(manifest)[:limit]
    described = f"{len(pictures)} images of {images.name}" if images else f"{len(pictures)} images of seeded noise"
    path = find_reference(artifact, checkpoint)
    reference = f"eager, checkpoint sha256 {(manifest.lineage.checkpoint_sha256 or '')[:12]}"
    try:
        candidate = open_session(artifact, device)
    except BackendError as error:
        parity = Parity(
            reference=reference,
            inputs=described,
            device="none",
            tolerance=tolerance,
            shapes=(),
            verdict="skipped",
            reason=str(error),
        )
    else:
        with candidate, open_session(eager_artifact(path, config), device) as original:
            results = _compare(artifact, original, candidate, pictures, shapes or default_shapes(manifest))
            parity = Parity(
                reference=reference,
                inputs=described,
                device=candidate.device,
                tolerance=tolerance,
                shapes=tuple(results),
                verdict=overall(result.verdict for result in results),
            )
    if record:
        record_parity(artifact, parity)
    return parity


def _compare(
    artifact: Artifact,
    original: Session,
    candidate: Session,
    pictures: Sequence[NDArray[np.uint8]],
    shapes: Sequence[tuple[int, int, int]],
) -> list[ShapeParity]:
    manifest = artifact.manifest
    results = []
    total = sum(-(-len(pictures) // count) for count, _, _ in shapes)
    with progress_bar(f"verify {artifact.name}", total) as advance:
        for count, height, width in shapes:
            comparison = ShapeComparison((count, height, width), TOLERANCES[manifest.precision], manifest)
            for start in range(0, len(pictures), count):
                # The last batch is filled up from the front: a static batch axis takes no other size.
                chosen = [pictures[(start + i) % len(pictures)] for i in range(count)]
                batch = np.stack([resize_image(picture, height, width) for picture in chosen])
                comparison.add(_outputs(original, batch), _outputs(candidate, batch))
                advance()
            results.append(comparison.result())
    return results


def _outputs(session: Session, batch: NDArray[np.uint8]) -> Outputs:
    prediction = session.run(batch, logits=True)
    assert prediction.logits is not None
    return Outputs(prediction.mask, prediction.logits)


def _noise(manifest: Manifest) -> list[NDArray[np.uint8]]:
    _, (_, height, _), (_, width, _) = map(bounds, manifest.input.shape[:3])
    random = np.random.default_rng(0)
    # Noise of two scales: coarse blobs make masks with regions, fine grain reaches the first layers.
    coarse = [random.integers(0, 256, (6, 6, 3), dtype=np.uint8) for _ in range(_NOISE_IMAGES)]
    fine = random.integers(-20, 20, (_NOISE_IMAGES, height, width, 3))
    return [
        np.clip(resize_image(blob, height, width).astype(np.int64) + grain, 0, 255).astype(np.uint8)
        for blob, grain in zip(coarse, fine, strict=True)
    ]
