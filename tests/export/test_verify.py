import shutil

import numpy as np
import pytest

from segdeploy.core.artifact import open_artifact, write_artifact
from segdeploy.core.errors import ArtifactError, CheckpointError, InputError
from segdeploy.core.manifest import Bounds
from segdeploy.export import verify as verifying
from segdeploy.export.verify import default_shapes, verify

onnx = pytest.importorskip("onnx")
from onnx import numpy_helper  # noqa: E402  only where onnx is there


def edit(model, name, change):
    """Change an initializer of the ONNX file."""
    found = [one for one in model.graph.initializer if one.name == name]
    assert len(found) == 1, [one.name for one in model.graph.initializer]
    values = numpy_helper.to_array(found[0]).copy()
    found[0].CopyFrom(numpy_helper.from_array(change(values), name))


def swap_channels(model):
    """The means of red and blue exchanged: a model trained on BGR, a config on RGB."""
    edit(model, "mean", lambda mean: mean[:, ::-1].copy())


def flip_align_corners(model):
    """Only the last resize, from the logits to the mask, is made differently: the logits are all right."""
    users = [node for node in model.graph.node if node.op_type == "Resize"]
    consumed = {name for node in model.graph.node if node.op_type == "ArgMax" for name in node.input}
    (last,) = [node for node in users if set(node.output) & consumed]
    mode = next(attribute for attribute in last.attribute if attribute.name == "coordinate_transformation_mode")
    assert mode.s in (b"pytorch_half_pixel", b"half_pixel")
    mode.s = b"align_corners"


def perturb(model):
    """One weight of one convolution, off by 0.01."""

    def change(weight):
        weight.flat[0] += 1e-2
        return weight

    edit(model, "decode_head.conv_seg.weight", change)


def swap_classes(model):
    """Two classes exchanged, as by a class list in another order."""
    for name in ("decode_head.conv_seg.weight", "decode_head.conv_seg.bias"):
        edit(model, name, lambda values: values[[1, 0, *range(2, len(values))]])


def drop_a_class(model):
    """One class that can never win, in a mask that is otherwise right."""

    def change(bias):
        bias[3] = -1e4
        return bias

    edit(model, "decode_head.conv_seg.bias", change)


def not_a_number(model):
    """A weight that was NaN when it was exported."""

    def change(bias):
        bias[2] = np.nan
        return bias

    edit(model, "decode_head.conv_seg.bias", change)


@pytest.fixture
def with_fault(onnx_artifact, tmp_path):
    """The good artifact with a fault planted in its graph, its hashes right."""

    def plant(fault):
        def write(folder):
            model = onnx.load(onnx_artifact.model_path)
            fault(model)
            onnx.save(model, folder / "model.onnx")
            return onnx_artifact.manifest

        return write_artifact(tmp_path / "faulty", write)

    return plant


@pytest.mark.parametrize("fmt", ["onnx", "torchscript"])
def test_a_good_artifact_passes(request, fmt, copied, images_folder):
    """On real pictures, at six shapes, and the verdict is in the manifest on disk, with its figures."""
    artifact = copied(request.getfixturevalue(f"{fmt}_artifact"))
    parity = verify(artifact, images=images_folder, device="cpu")
    assert parity.verdict == "passed"
    assert open_artifact(artifact.folder).manifest.parity == parity
    assert parity.device == "cpu"
    assert artifact.manifest.lineage.checkpoint_sha256[:12] in parity.reference
    assert parity.inputs == "6 images of val"
    assert len(parity.shapes) == 6
    assert {shape.shape[0] for shape in parity.shapes} == {1, 2, 3}
    assert all(0 < shape.logits_max_abs < 1e-4 * max(1, shape.logits_scale) for shape in parity.shapes)
    assert all(shape.images >= 6 for shape in parity.shapes)


def test_without_pictures(copied, onnx_artifact):
    """Seeded noise serves where there are none, the verdict says so, and nothing is recorded if so asked."""
    artifact = copied(onnx_artifact)
    parity = verify(artifact, record=False, shapes=[(1, 64, 96)])
    assert parity.verdict == "passed"
    assert "noise" in parity.inputs
    assert open_artifact(artifact.folder).manifest.parity is None


@pytest.mark.parametrize("inputs", ["pictures", "noise"])
@pytest.mark.parametrize("fault", [swap_channels, flip_align_corners, perturb, swap_classes, drop_a_class, not_a_number])
def test_a_fault_is_found(with_fault, images_folder, fault, inputs):
    """Whatever is wrong with an artifact, the verdict is ``failed``, at every shape's own row and on disk."""
    artifact = with_fault(fault)
    parity = verify(artifact, images=images_folder if inputs == "pictures" else None, shapes=[(1, 64, 96), (2, 75, 51)])
    assert parity.verdict == "failed"
    assert all(shape.verdict == "failed" for shape in parity.shapes)
    assert open_artifact(artifact.folder).manifest.parity == parity


def test_a_fault_at_other_sizes_only(tmp_path, checkpoint_path, monkeypatch):
    """Pooling with equal bins is right where they divide the map and wrong elsewhere: the other sizes find it."""
    import torch

    from segdeploy.core.checkpoint import load_checkpoint
    from segdeploy.export import rewrites
    from segdeploy.export.export import export_model
    from segdeploy.export.shapes import choose_shapes

    def equal_bins(size, cells, like):
        length = torch.div(torch.as_tensor(size), cells, rounding_mode="floor").clamp(min=1)
        at, cell = torch.arange(size)[None, :], torch.arange(cells)[:, None]
        return torch.logical_and(at >= cell * length, at < (cell + 1) * length).to(like.dtype) / length

    monkeypatch.setattr(rewrites, "_bins", equal_bins)
    shapes = choose_shapes((192, 192), tensorrt=False, largest="512x512")
    artifact = export_model(load_checkpoint(checkpoint_path), "torchscript", tmp_path / "equal", name="x", shapes=shapes)
    assert verify(artifact, shapes=[(1, 192, 192)], record=False).verdict == "passed"
    parity = verify(artifact)
    assert parity.verdict == "failed"
    assert parity.shapes[0].verdict == "passed"


def test_an_engine_is_skipped_here(copied, tensorrt_artifact, no_gpu):
    """What cannot run is ``skipped`` with the reason, in the manifest too, and never ``passed``."""
    artifact = copied(tensorrt_artifact)
    parity = verify(artifact)
    assert parity.verdict == "skipped"
    assert "an NVIDIA GPU" in parity.reason
    assert parity.shapes == ()
    assert open_artifact(artifact.folder).manifest.parity == parity


def test_another_checkpoint_is_refused(copied, onnx_artifact, checkpoint_path, tmp_path):
    """By its hash: weights that differ in one bit are not the reference."""
    import torch

    content = torch.load(checkpoint_path, weights_only=True)
    content["state_dict"]["decode_head.conv_seg.bias"][0] += 1e-6
    torch.save(content, tmp_path / "other.pth")
    artifact = copied(onnx_artifact)
    with pytest.raises(ArtifactError, match="another one at"):
        verify(artifact, checkpoint=tmp_path / "other.pth")
    assert open_artifact(artifact.folder).manifest.parity is None


def test_the_checkpoint_may_have_moved(copied, onnx_artifact, checkpoint_path, tmp_path):
    """The hash decides, not the path."""
    moved = shutil.copy(checkpoint_path, tmp_path / "moved.pth")
    assert verify(copied(onnx_artifact), checkpoint=moved, shapes=[(1, 64, 96)]).verdict == "passed"


def test_a_checkpoint_that_is_gone(onnx_artifact, tmp_path):
    """A reference that is not there is said, with the option that names it."""
    with pytest.raises(CheckpointError, match="--checkpoint FILE"):
        verify(onnx_artifact, checkpoint=tmp_path / "none.pth", record=False)


def test_no_pictures(onnx_artifact, tmp_path):
    """A folder without pictures is an error, never a verdict on nothing."""
    with pytest.raises(InputError):
        verify(onnx_artifact, images=tmp_path, record=False)


def test_a_shape_that_the_artifact_does_not_take(onnx_artifact):
    """Asking for a shape out of bounds is an error, not a failed parity."""
    with pytest.raises(InputError, match="H within 32..256"):
        verify(onnx_artifact, shapes=[(1, 16, 96)], record=False)


def test_a_static_artifact_at_its_one_shape(copied, static_onnx, images_folder):
    """A static artifact is verified at the shape that it takes."""
    parity = verify(copied(static_onnx), images=images_folder)
    assert [shape.shape for shape in parity.shapes] == [(1, 64, 96)]
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


def test_the_last_batch_is_filled_up(copied, onnx_artifact, images_folder, monkeypatch):
    """Six pictures in batches of four: every picture is compared, at the full batch size."""
    sizes = []
    outputs = verifying._outputs
    monkeypatch.setattr(verifying, "_outputs", lambda session, batch: (sizes.append(len(batch)), outputs(session, batch))[1])
    parity = verify(copied(onnx_artifact), images=images_folder, shapes=[(4, 64, 96)])
    assert sizes == [4, 4, 4, 4]  # two batches on each side
    assert parity.shapes[0].images == 8
