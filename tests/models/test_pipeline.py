"""The test pipeline of a config, held against mmseg's own transforms."""

import cv2
import numpy as np
import pytest

from segdeploy.artifact.manifest import Resize
from segdeploy.base.errors import ConfigError, InputError
from segdeploy.images.resize import network_size, resize_picture, to_exactly
from segdeploy.models.pipeline import pipeline_resize

SIZES = ((75, 100), (120, 80), (49, 41), (64, 96), (33, 33), (200, 37))
STEPS = {
    "fit": [{"type": "Resize", "scale": (96, 64), "keep_ratio": True}],
    "fit within a portrait": [{"type": "Resize", "scale": (64, 96), "keep_ratio": True}],
    "exact": [{"type": "Resize", "scale": (96, 64)}],
    "a square": [{"type": "Resize", "scale": 57}],
    "fit within a square": [{"type": "Resize", "scale": 57, "keep_ratio": True}],
    "half": [{"type": "Resize", "scale_factor": 0.5}],
    "each side's own factor": [{"type": "mmseg.Resize", "scale_factor": (1.3, 0.7)}],
    "fit within factors": [{"type": "Resize", "scale_factor": (1.3, 0.7), "keep_ratio": True}],
    "scale before factor": [{"type": "Resize", "scale": (50, 40), "scale_factor": 0.5}],
    "nearest": [{"type": "Resize", "scale": (50, 40), "interpolation": "nearest"}],
    "bicubic": [{"type": "Resize", "scale": (50, 40), "keep_ratio": True, "interpolation": "bicubic"}],
    "area": [{"type": "Resize", "scale": (50, 40), "interpolation": "area"}],
    "lanczos": [{"type": "Resize", "scale": (150, 140), "interpolation": "lanczos"}],
    "pillow": [{"type": "Resize", "scale": (50, 40), "backend": "pillow"}],
    "pillow's box": [{"type": "Resize", "scale": (50, 40), "backend": "pillow", "interpolation": "box"}],
    "pillow's lanczos": [{"type": "Resize", "scale": (50, 40), "backend": "pillow", "interpolation": "lanczos"}],
    "shortest edge": [{"type": "ResizeShortestEdge", "scale": 60, "max_size": 1000}],
    "shortest edge, longest reached": [{"type": "ResizeShortestEdge", "scale": (90, 70), "max_size": 101}],
    "multiple": [{"type": "ResizeToMultiple"}],
    "multiple, each side's own": [{"type": "ResizeToMultiple", "size_divisor": (16, 24), "interpolation": "area"}],
    # PoolFormer's, in mmseg's own configs.
    "two steps": [
        {"type": "Resize", "scale": (90, 50), "keep_ratio": True},
        {"type": "ResizeToMultiple", "size_divisor": 32},
    ],
}


def pipeline_of(steps):
    return [{"type": "LoadImageFromFile"}, *steps, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]


def config_of(steps):
    return {"test_dataloader": {"dataset": {"pipeline": pipeline_of(steps)}}}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_every_pixel_is_mmsegs(steps):
    """Size and pixels are those of mmseg's own transforms, on BGR as mmseg has it; the size is known before."""
    from segdeploy.models.packages import load_mmseg

    load_mmseg()
    from mmseg.registry import TRANSFORMS

    resize = pipeline_resize(config_of(steps))
    transforms = [TRANSFORMS.build(dict(step)) for step in steps]
    random = np.random.default_rng(0)
    for height, width in SIZES:
        image = cv2.GaussianBlur(random.integers(0, 256, (height, width, 3), np.uint8), (3, 3), 0)
        results = {"img": np.ascontiguousarray(image[..., ::-1]), "img_shape": image.shape[:2], "seg_fields": []}
        for transform in transforms:
            results = transform(results)
        np.testing.assert_array_equal(resize_picture(image, resize), results["img"][..., ::-1])
        assert network_size(height, width, resize) == results["img"].shape[:2]


def test_an_image_too_narrow():
    """Nothing is left of its shorter side: one line, in whichever step."""
    for resize in (
        Resize(mode="keep_ratio", scale=(50, 40)),
        Resize(mode="keep_ratio", factor=(0.4, 0.4)),
        Resize(mode="exact", factor=(0.1, 1.0)),
        Resize(mode="none", then=Resize(mode="shortest_edge", scale=(4, 40))),
    ):
        with pytest.raises(InputError, match="got one of 1x200"):
            network_size(200, 1, resize)


def test_to_exactly_keeps_the_filter():
    """Another size, the same filter."""
    resize = Resize("keep_ratio", None, (0.5, 0.5), "box", "pillow", Resize("multiple", (32, 32)))
    assert to_exactly(7, 9, resize) == Resize("exact", (9, 7), None, "box", "pillow")


def test_words():
    """What is not mmcv's default is said."""
    assert Resize(mode="none").words == "none"
    assert Resize("exact", (4, 3), None, "box", "pillow", Resize("keep_ratio", factor=(0.5, 1.0))).words == (
        "exact (4, 3), box, by pillow; then keep_ratio (0.5, 1.0)"
    )


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"type": "RandomFlip", "prob": 0.5}, "got RandomFlip"),
        ({"type": "Pad", "size": (64, 64)}, "got Pad"),
        ({"type": "Resize"}, "a scale_factor, above 0 in Resize; got None"),
        ({"type": "Resize", "scale": (0, 5)}, r"scale of Resize above 0.*got \(0, 5\)"),
        ({"type": "Resize", "scale": (5, 5, 5)}, "scale of Resize above 0"),
        ({"type": "Resize", "scale_factor": -0.5}, "got -0.5"),
        ({"type": "Resize", "scale": 5, "interpolation": "cubic"}, "interpolation='cubic' of backend='cv2'"),
        ({"type": "Resize", "scale": 5, "interpolation": "area", "backend": "pillow"}, "'area' of backend='pillow'"),
        ({"type": "Resize", "scale": 5, "backend": "torch"}, "of backend='torch'"),
        ({"type": "ResizeShortestEdge", "scale": 5}, "max_size of ResizeShortestEdge"),
        ({"type": "LoadImageFromFile", "to_float32": True}, "to_float32=False in the test pipeline; got to_float32=True"),
        ({"type": "LoadImageFromFile", "imdecode_backend": "pillow"}, "got imdecode_backend='pillow'"),
        ({"type": "LoadImageFromFile", "color_type": "grayscale"}, "got color_type='grayscale'"),
        ({"type": "LoadAnnotations", "imdecode_backend": "cv2"}, "got imdecode_backend='cv2'"),
    ],
)
def test_what_is_not_done_is_refused(step, words):
    """In one line that names the step."""
    with pytest.raises(ConfigError, match=words) as caught:
        pipeline_resize(config_of([step]))
    assert "\n" not in str(caught.value)


def test_pipelines_within_wrappers():
    """All data sets of a ConcatDataset are resized alike, or refused; without a loader the pipeline's own name counts."""
    first, second = ({"pipeline": pipeline_of([{"type": "Resize", "scale": scale}])} for scale in (40, 50))
    wrapped = {"type": "RepeatDataset", "dataset": {"type": "ConcatDataset", "datasets": [first, first]}}
    assert pipeline_resize({"val_dataloader": {"dataset": wrapped}}) == Resize(mode="exact", scale=(40, 40))
    wrapped["dataset"]["datasets"] = [first, second]
    with pytest.raises(ConfigError, match=r"got exact \(40, 40\), and exact \(50, 50\)"):
        pipeline_resize({"val_dataloader": {"dataset": wrapped}})
    assert pipeline_resize({"test_pipeline": second["pipeline"]}) == Resize(mode="exact", scale=(50, 50))
    assert pipeline_resize({}) == Resize(mode="none")
