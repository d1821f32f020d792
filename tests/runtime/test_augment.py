import msgspec
import numpy as np
import pytest

from segdeploy.base.errors import InputError
from segdeploy.images.dataset import find_samples
from segdeploy.images.decode import read_image
from segdeploy.runtime import open_session
from segdeploy.runtime.augment import Augmentation, predict_augmented, scaled_size
from segdeploy.runtime.evaluation import tally
from segdeploy.runtime.open import eager_artifact
from segdeploy.runtime.predictor import predict_labels

MMSEG = Augmentation((0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True)


def tta_pipeline(augmentation, resizes=None):
    """The tta_pipeline of mmseg's configs (``_base_/datasets/pascal_voc12.py``)."""
    resizes = resizes or [{"type": "Resize", "scale_factor": scale, "keep_ratio": True} for scale in augmentation.scales]
    flips = [{"type": "RandomFlip", "prob": prob, "direction": "horizontal"} for prob in (0.0, 1.0)[: 1 + augmentation.flip]]
    steps = [resizes, flips, [{"type": "LoadAnnotations"}], [{"type": "PackSegInputs"}]]
    return [{"type": "LoadImageFromFile"}, {"type": "TestTimeAug", "transforms": steps}]


def mmseg_labels(model, pipeline, sample):
    """mmseg's SegTTAModel around its own model, on one sample."""
    import torch
    from mmengine.dataset import Compose, pseudo_collate
    from mmseg.models import SegTTAModel

    data = Compose(pipeline)(
        {"img_path": str(sample.image), "seg_map_path": str(sample.label), "reduce_zero_label": False, "seg_fields": []}
    )
    with torch.no_grad():
        (result,) = SegTTAModel(module=model).test_step(pseudo_collate([data]))
    return result.pred_sem_seg.data.squeeze(0).numpy()


@pytest.mark.parametrize("augmentation", [MMSEG, Augmentation((0.6, 1.3)), Augmentation((1.0,), flip=True)])
def test_labels_are_mmsegs(eager, mmseg_model, labelled_root, augmentation):
    """On pictures of every size: pixel for pixel what mmseg's SegTTAModel says with its tta_pipeline."""
    changed = 0
    for sample in find_samples(labelled_root, "val"):
        image = read_image(sample.image)
        labels = predict_augmented(eager, image, augmentation)
        expected = mmseg_labels(mmseg_model, tta_pipeline(augmentation), sample)
        assert labels.dtype == np.uint8
        assert labels.shape == expected.shape
        assert (labels != expected).sum() <= 2, sample.name  # ties in the last bit of a float
        changed += int((labels != predict_labels(eager, image)).sum())
    assert changed > 100, "an augmentation without effect would prove nothing"


def test_flip_alone_keeps_the_test_pipelines_size(eager, mmseg_model, labelled_root):
    """Without scales the picture has the size that the config's own Resize gives it."""
    resize = [step for step in mmseg_model.cfg.test_pipeline if step["type"] == "Resize"]
    flip = Augmentation(flip=True)
    for sample in find_samples(labelled_root, "val")[:3]:
        expected = mmseg_labels(mmseg_model, tta_pipeline(flip, resize), sample)
        assert (predict_augmented(eager, read_image(sample.image), flip) != expected).sum() <= 2


def test_is_mmsegs_runner(run_mmseg, checkpoint_path, labelled_root):
    """The scores are those of mmseg's Runner.test() as its tools/test.py --tta starts it."""
    expected = run_mmseg(checkpoint_path, tta_pipeline=tta_pipeline(MMSEG))
    counted = tally(eager_artifact(checkpoint_path), find_samples(labelled_root, "val"), device="cpu", augmentation=MMSEG)
    scores = counted.matrix.evaluation(eager_artifact(checkpoint_path).manifest.classes)
    assert {"aAcc": scores.aacc, "mIoU": scores.miou, "mAcc": scores.macc} == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("backend", ["onnx", "torchscript"])
def test_on_every_backend(request, backend, eager, images_folder):
    """An export says what the checkpoint says."""
    with open_session(request.getfixturevalue(f"{backend}_artifact"), "cpu") as session:
        for path in sorted(images_folder.iterdir())[:2]:
            image = read_image(path)
            augmentation = Augmentation((1.0, 1.5), flip=True)
            ours, reference = (predict_augmented(one, image, augmentation) for one in (session, eager))
            assert (ours != reference).sum() <= 2


def test_nothing_to_do_is_the_plain_prediction(eager, images_folder):
    """Without scales and flip no softmax is taken."""
    image = read_image(images_folder / "0.png")
    assert not Augmentation().active
    assert (predict_augmented(eager, image, Augmentation()) == predict_labels(eager, image)).all()


def test_a_size_that_the_artifact_does_not_take(onnx_artifact, images_folder):
    """One line that names the bound, the size and the scale, and what to leave out."""
    with open_session(onnx_artifact, "cpu") as session:
        image = read_image(images_folder / "0.png")
        with pytest.raises(InputError, match=r"within \d+\.\.256.*got \w = \d+ at scale 6; leave that scale out"):
            predict_augmented(session, image, Augmentation((1.0, 6.0)))
        with pytest.raises(InputError, match="fitted within"):
            predict_augmented(session, np.zeros((1, 300, 3), np.uint8), Augmentation((0.2,)))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 17.0])
def test_scales_that_are_none(scale):
    """Nothing at or below zero, and nothing that would exhaust the memory."""
    with pytest.raises(InputError, match="scales above 0"):
        Augmentation((1.0, scale))


@pytest.mark.parametrize("size", [(375, 500), (41, 49), (100, 333), (7, 5)])
@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.1, 1.75])
def test_sizes_are_mmcvs(size, scale):
    """As mmcv's Resize transform makes them, rounding included."""
    pytest.importorskip("mmcv")
    from mmcv.transforms import Resize

    made = Resize(scale_factor=scale, keep_ratio=True)({"img": np.zeros((*size, 3), np.uint8)})["img"]
    assert scaled_size(*size, scale) == made.shape[:2]


def test_more_than_256_classes(eager, make_manifest):
    """Labels beyond 255 do not wrap."""
    from segdeploy.artifact.folder import Artifact
    from segdeploy.runtime.session import Prediction

    class Many:
        artifact = Artifact(None, make_manifest(classes=tuple(map(str, range(300)))))

        def run(self, images, *, logits=False):
            raw = np.zeros((1, 300, 4, 4), np.float32)
            raw[:, 290] = 1
            return Prediction(np.full(images.shape[:3], 290, np.int32), raw)

    assert (predict_augmented(Many(), np.zeros((20, 30, 3), np.uint8), Augmentation(flip=True)) == 290).all()


def test_with_crops(eager, mmseg_model, labelled_root):
    """Augmentation goes with slide inference as in mmseg, where each variant is run in crops."""
    import copy

    from mmengine.config import ConfigDict

    from segdeploy.artifact.folder import Artifact
    from segdeploy.artifact.manifest import Inference

    class Sliding:
        def __init__(self):
            inference = Inference(mode="slide", crop=(48, 48), stride=(32, 32))
            self.artifact = Artifact(None, msgspec.structs.replace(eager.artifact.manifest, inference=inference))
            self.run = eager.run

    model = copy.copy(mmseg_model)
    model.test_cfg = ConfigDict(mode="slide", crop_size=(48, 48), stride=(32, 32))
    augmentation = Augmentation((0.75, 1.25), flip=True)
    for sample in find_samples(labelled_root, "val")[:3]:
        expected = mmseg_labels(model, tta_pipeline(augmentation), sample)
        assert (predict_augmented(Sliding(), read_image(sample.image), augmentation) != expected).sum() <= 2
