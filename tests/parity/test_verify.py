"""Verdicts on good artifacts, and what refuses to give one. The bad ones are in test_faults.py."""

import shutil

import numpy as np
import pytest

from segdeploy.artifact.folder import open_artifact
from segdeploy.artifact.manifest import Bounds, Profile
from segdeploy.artifact.verdict import Parity
from segdeploy.base.errors import ArtifactError, CheckpointError, InputError
from segdeploy.parity.inputs import noise, pictures_of_dataset, pictures_of_folder
from segdeploy.parity.shapes import default_shapes, extreme_shapes, left_out, pixels
from segdeploy.parity.tolerance import TOLERANCES, tolerance_for
from segdeploy.parity.verify import verify


@pytest.fixture
def pictures(images_folder):
    return pictures_of_folder(images_folder)


@pytest.mark.parametrize("fmt", ["onnx", "torchscript"])
def test_a_good_artifact_passes(request, fmt, copied, pictures):
    """On real pictures, at many shapes, and the verdict is in the manifest on disk, with its figures."""
    artifact = copied(request.getfixturevalue(f"{fmt}_artifact"))
    parity = verify(artifact, inputs=pictures, device="cpu")
    assert parity.verdict == "passed"
    assert open_artifact(artifact.folder).manifest.parity == (parity,)
    assert parity.device == "cpu"
    assert artifact.manifest.lineage.checkpoint_sha256[:12] in parity.reference
    assert parity.inputs == "6 images of val"
    own, *others = parity.shapes
    assert (own.shape, own.images) == (None, 6)
    assert [one.shape for one in others] == default_shapes(artifact.manifest)
    assert {(1, 32, 32), (16, 32, 32), (1, 32, 256), (1, 256, 32), (1, 256, 256), (16, 256, 256)} < {s.shape for s in others}
    assert parity.left_out == ()
    assert all(0 < shape.logits.max_abs < 1e-4 * max(1, shape.logits.scale) for shape in parity.shapes)
    assert parity.labels.images == len(set(parity.pictures)) == 6
    assert (parity.task.verdict, parity.task.reason) == ("skipped", "the pictures have no labels")
    assert parity.determinism.again == parity.determinism.batched == parity.determinism.after == 0
    assert "in a batch of 3 distinct pictures" in parity.determinism.reason
    assert parity.divergence is None
    assert 0 < parity.forward_seconds < parity.seconds


def test_without_pictures(copied, onnx_artifact):
    """Seeded noise serves where there are none, the verdict says so, and nothing is recorded if so asked."""
    artifact = copied(onnx_artifact)
    parity = verify(artifact, inputs=noise(artifact.manifest), record=False, shapes=[(1, 64, 96)])
    assert parity.verdict == "passed"
    assert "noise" in parity.inputs
    assert open_artifact(artifact.folder).manifest.parity == ()


def test_an_engine_is_skipped_here(copied, tensorrt_artifact, no_gpu):
    """What cannot run is ``skipped`` with the reason, in the manifest too, and never ``passed``."""
    artifact = copied(tensorrt_artifact)
    parity = verify(artifact)
    assert parity.verdict == "skipped"
    assert "an NVIDIA GPU" in parity.reason
    assert parity.shapes == ()
    assert open_artifact(artifact.folder).manifest.parity == (parity,)


def test_another_checkpoint_is_refused(copied, onnx_artifact, checkpoint_path, tmp_path):
    """By its hash: weights that differ in one bit are not the reference."""
    import torch

    content = torch.load(checkpoint_path, weights_only=True)
    content["state_dict"]["decode_head.conv_seg.bias"][0] += 1e-6
    torch.save(content, tmp_path / "other.pth")
    artifact = copied(onnx_artifact)
    with pytest.raises(ArtifactError, match="another one at"):
        verify(artifact, checkpoint=tmp_path / "other.pth")
    assert open_artifact(artifact.folder).manifest.parity == ()


def test_the_checkpoint_may_have_moved(copied, onnx_artifact, checkpoint_path, tmp_path):
    """The hash decides, not the path."""
    moved = shutil.copy(checkpoint_path, tmp_path / "moved.pth")
    assert verify(copied(onnx_artifact), checkpoint=moved, shapes=[(1, 64, 96)]).verdict == "passed"


def test_a_checkpoint_that_is_gone(onnx_artifact, tmp_path):
    """A reference that is not there is said, with the option that names it."""
    with pytest.raises(CheckpointError, match="--checkpoint FILE"):
        verify(onnx_artifact, checkpoint=tmp_path / "none.pth", record=False)


def test_no_pictures(tmp_path):
    """A folder without pictures is an error, never a verdict on nothing."""
    with pytest.raises(InputError):
        pictures_of_folder(tmp_path)


def test_a_shape_that_the_artifact_does_not_take(onnx_artifact):
    """Asking for a shape out of bounds is an error, not a failed parity."""
    with pytest.raises(InputError, match="H within 32..256"):
        verify(onnx_artifact, shapes=[(1, 16, 96)], record=False)


def test_a_static_artifact_at_its_one_shape(copied, static_onnx, pictures):
    """A static artifact is verified at the shape that it takes."""
    parity = verify(copied(static_onnx), inputs=pictures)
    assert [shape.shape for shape in parity.shapes] == [None, (1, 64, 96)]
    assert parity.determinism.batched is None
    assert parity.verdict == "passed"


def test_default_shapes(make_manifest):
    """The best size first, then odd ones, portrait and landscape, within the bounds and none twice."""
    import msgspec

    base = make_manifest()
    axes = (Bounds(min=1, opt=1, max=2), Bounds(min=100, opt=200, max=300), 250, 3)
    shapes = default_shapes(msgspec.structs.replace(base, input=msgspec.structs.replace(base.input, shape=axes)))
    assert shapes[0] == (1, 200, 250)
    assert len(set(shapes)) == len(shapes) >= 4
    assert all(1 <= n <= 2 and 100 <= h <= 300 and w == 250 for n, h, w in shapes)


def test_the_ends_of_the_ranges(make_manifest):
    """Smallest and largest, flat and narrow, the largest batch; what is too large to run unasked is said, and how to ask."""
    import msgspec

    base = make_manifest()
    axes = (Bounds(min=1, opt=1, max=16), Bounds(min=32, opt=512, max=2048), Bounds(min=32, opt=512, max=2048), 3)
    manifest = msgspec.structs.replace(base, input=msgspec.structs.replace(base.input, shape=axes))
    shapes = default_shapes(manifest)
    assert {(1, 32, 32), (16, 32, 32), (1, 32, 2048), (1, 2048, 32)} < set(shapes)
    assert max(pixels(shape) for shape in shapes) <= 2**21
    assert left_out(manifest) == ((1, 2048, 2048), (16, 512, 512), (16, 2048, 2048))
    assert set(extreme_shapes(manifest)) - set(shapes) == set(left_out(manifest))
    parity = Parity(
        reference="r",
        inputs="i",
        device="cpu",
        tolerance=TOLERANCES["fp32"],
        shapes=(),
        verdict="passed",
        left_out=((16, 8, 9),),
    )
    row = next(check for check in parity.checks if check.name == "logits and masks, 16 x 8x9")
    assert row.verdict == "skipped"
    assert "--shape 8x9 --batch 16" in row.reason


def test_the_ends_of_every_profile(tensorrt_artifact):
    """An engine is verified at both ends and the best of each of its profiles."""
    import msgspec

    engine = msgspec.structs.replace(
        tensorrt_artifact.manifest.engine,
        profiles=(
            Profile(min=(1, 32, 32), opt=(1, 64, 64), max=(2, 128, 96)),
            Profile(min=(4, 256, 256), opt=(4, 256, 256), max=(8, 2048, 2048)),
        ),
    )
    manifest = msgspec.structs.replace(tensorrt_artifact.manifest, engine=engine)
    shapes = default_shapes(manifest)
    assert {(1, 32, 32), (1, 64, 64), (2, 128, 96), (4, 256, 256), (8, 256, 256)} < set(shapes)
    assert (8, 2048, 2048) in left_out(manifest)


def test_the_last_batch_is_filled_up(copied, onnx_artifact, pictures):
    """Six pictures in batches of four: every picture is compared, at the full batch size."""
    parity = verify(copied(onnx_artifact), inputs=pictures, shapes=[(4, 64, 96)])
    assert parity.shapes[1].images == 8


def test_the_task_is_mmsegs(copied, onnx_artifact, labelled_root, runner_scores):
    """With labels: mIoU of both, which is what mmseg's own Runner says of the checkpoint; equal within the epsilon."""
    artifact = copied(onnx_artifact)
    parity = verify(artifact, inputs=pictures_of_dataset(labelled_root, "val", artifact.manifest), shapes=[(1, 64, 96)])
    assert parity.verdict == parity.task.verdict == "passed"
    assert round(parity.task.miou_reference, 2) == runner_scores["mIoU"]
    assert parity.task.miou_candidate == pytest.approx(parity.task.miou_reference, abs=1e-9)
    assert [one.name for one in parity.task.classes] == list(artifact.manifest.classes)


def test_some_pictures_are_spread_over_all(labelled_root, make_manifest):
    """A limit takes them evenly: the first ones of a data set are often of one scene."""
    some = pictures_of_dataset(labelled_root, "val", make_manifest(), limit=3)
    everything = pictures_of_dataset(labelled_root, "val", make_manifest())
    assert [one.name for one in some.pictures] == [one.name for one in everything.pictures][::2]
    assert some.described.startswith("3 of 6 labelled images")


def test_memory_does_not_grow(copied, onnx_artifact, pictures):
    """Ten times the pictures take no more memory: what is kept of a picture is not kept of the next."""
    import tracemalloc
    from dataclasses import replace

    artifact = copied(onnx_artifact)
    peaks = []
    for times in (2, 20):
        tracemalloc.start()
        verify(artifact, inputs=replace(pictures, pictures=pictures.pictures * times), shapes=[(1, 64, 96)], record=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


@pytest.mark.parametrize("name", ["logits_max_abs", "mask_agreement", "miou_points"])
def test_a_tolerance_of_ones_own(copied, onnx_artifact, pictures, name):
    """A tighter tolerance than rounding fails a good artifact, and the verdict records that it was chosen."""
    chosen = tolerance_for("fp32", **{name: 1e-12 if name != "mask_agreement" else 1.0})
    assert chosen.overridden == (name,)
    assert tolerance_for("fp32") == TOLERANCES["fp32"]
    parity = verify(copied(onnx_artifact), inputs=pictures, shapes=[(1, 64, 96)], tolerance=chosen)
    assert parity.tolerance == chosen
    assert parity.verdict == ("failed" if name == "logits_max_abs" else "passed")
    with pytest.raises(InputError, match=name):
        tolerance_for("fp32", **{name: 0.0})


def test_other_opsets_threads_and_batches_pass(copied, static_onnx, export_tiny, tmp_path, pictures):
    """What may differ without being a fault: another opset, one fixed batch size, one thread, two."""
    batch_of_two = export_tiny("onnx", tmp_path / "two", batch="2")
    for artifact in (copied(static_onnx), batch_of_two):
        parity = verify(artifact, inputs=pictures)
        assert parity.verdict == "passed", [check for check in parity.checks if check.verdict != "passed"]
    assert {shape.shape[0] for shape in parity.shapes if shape.shape} == {2}


def test_another_model_at_the_same_hash_is_told_by_its_mask(make_manifest):
    """Labels outside the classes are no crash of the verdict: they differ."""
    from segdeploy.parity.flips import FlipCount

    count = FlipCount(3)
    reference = np.zeros((4, 4), np.uint8)
    count.add(reference, reference + 200, np.full(16, 2.0), 0.0)
    assert count.figures().differ == 16
