import math

import numpy as np
import pytest

from segdeploy.base.errors import ExportError
from segdeploy.export import sensitivity
from segdeploy.export.quantize import QuantizableLayer
from segdeploy.export.sensitivity import Ranked, fewest, keep_within

FACTOR = 2.0**10


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12, 47])
def test_fewest(count):
    """Where more kept layers never hurt, the answer is the smallest, found in at most 2 log2(L) + 2 tries."""
    for needed in range(count + 1):
        for least in range(needed + 1):
            tried = []

            def within(kept, needed=needed, tried=tried):
                tried.append(kept)
                return kept >= needed

            assert fewest(count, within, least) == needed
            assert len(tried) <= 2 * math.log2(count) + 2
            assert len(set(tried)) == len(tried)
            assert count not in tried or least == count, "keeping all of them is float32, and needs no try"


class Scripted:
    """A meter whose scores are given: the float32 score, less what the layers that are quantized cost."""

    metric, images = "mIoU", 5

    def __init__(self, costs):
        self.costs, self.fp32, self.quantized, self.asked = costs, 0.0, (), []

    def prepare(self):
        self.fp32 = 80.0

    def score(self, model, label):
        self.asked.append(label)
        return 80.0 - sum(self.costs.get(layer.node, 0) for layer in model)


def search(*meters, budget, order="abcdef", keep=True):
    layers = [QuantizableLayer(name, name, "Conv") for name in "abcdef"]
    ranked = [Ranked(QuantizableLayer(name, name, "Conv"), 0.1) for name in order] if keep else []
    return keep_within(meters, layers, lambda chosen: chosen, budget=budget, rank=lambda: ranked)


def test_nothing_is_kept_within_the_budget():
    """No ranking, one evaluation, and the statement says so."""
    meter = Scripted({"c": 0.4})
    kept, quality = keep_within(
        [meter], [QuantizableLayer("c", "c", "Conv")], lambda chosen: chosen, budget=0.5, rank=pytest.fail
    )
    assert list(kept) == []
    assert meter.asked == ["int8 everywhere"]
    assert (quality.fp32, quality.everything, quality.kept_back, quality.images) == (80.0, 79.6, 79.6, 5)


def test_the_worst_are_kept():
    """As many, from the worst on, as the budget needs; the statement has the score before and after."""
    kept, quality = search(Scripted({"d": 5, "b": 2, "a": 0.3}), budget=0.5, order="dbacef")
    assert [one.layer.node for one in kept] == ["d", "b"]
    assert quality.everything == pytest.approx(72.7)
    assert quality.kept_back == pytest.approx(79.7)


def test_the_result_is_held_on_all_images():
    """A search that was content on some of the images goes on where all of them are not."""
    some, everything = Scripted({"d": 5}), Scripted({"d": 5, "b": 2})
    everything.images = 50
    kept, quality = search(some, everything, budget=0.5, order="dbacef")
    assert [one.layer.node for one in kept] == ["d", "b"]
    assert (quality.images, quality.everything, quality.kept_back) == (50, 73.0, 80.0)


def test_a_budget_that_cannot_be_held():
    """When every layer would have to go, or none may, it is an error with both figures."""
    with pytest.raises(ExportError, match="int8 within 0.5 points of mIoU; got 80.00 in float32, 74.00 in int8"):
        search(Scripted(dict.fromkeys("abcdef", 1)), budget=0.5)
    with pytest.raises(ExportError, match="leave --no-keep out"):
        search(Scripted({"d": 5}), budget=0.5, keep=False)


def test_a_hostile_layer_is_found(lowered, planted_onnx):
    """A channel a thousand times the others' size before conv_seg ruins int8; conv_seg alone is kept, and the budget holds."""
    _, manifest = lowered("int8", planted_onnx(FACTOR), max_drop=3.0, limit=2)
    cost = manifest.quantization.quality
    assert (cost.metric, cost.images) == ("mIoU", 6)
    assert cost.fp32 - cost.everything > 10
    assert cost.fp32 - cost.kept_back <= 3.0
    assert manifest.quantization.kept[0].name == "decode_head.conv_seg"
    assert len(manifest.quantization.kept) <= 2
    assert manifest.quantization.converted > 40


def test_without_labels_masks_are_compared(lowered, planted_onnx, images_folder, tmp_path, onnx_artifact):
    """The score is then the share of pixels with the float32 label, and says that it is."""
    import msgspec

    from segdeploy.export.options import Calibration
    from segdeploy.export.precision import convert

    path = tmp_path / "model.onnx"
    path.write_bytes(planted_onnx(FACTOR).read_bytes())
    layouts = tuple(msgspec.structs.replace(one, root=str(tmp_path / "gone")) for one in onnx_artifact.manifest.layouts)
    manifest = msgspec.structs.replace(onnx_artifact.manifest, precision="int8", layouts=layouts)
    cost = convert(path, manifest, Calibration(images=images_folder, max_drop=4.0, limit=2)).quantization.quality
    assert (cost.metric, cost.fp32, cost.images) == ("mask agreement", 100.0, 2)
    assert cost.everything < 90
    assert cost.kept_back >= 96


@pytest.mark.parametrize(("count", "taken"), [(32, [0, 8, 16, 24]), (5, [0, 1, 2, 3]), (3, [0, 1, 2]), (1, [0])])
def test_the_ranking_is_of_all_the_film(count, taken, monkeypatch):
    """The pictures that layers are ranked on are spread evenly, and none is taken twice."""
    seen = []

    def logits(model, manifest, pictures, max_pixels):
        seen.append(list(pictures))
        assert max_pixels == 7
        return [np.ones((1, 2, 3, 3), np.float32) for _ in pictures]

    monkeypatch.setattr(sensitivity, "_logits", logits)
    sensitivity.rank_layers([QuantizableLayer("a", "a", "Conv")], lambda chosen: chosen, None, None, range(count), max_pixels=7)
    assert seen == [taken, taken]
