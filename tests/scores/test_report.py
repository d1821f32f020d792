import json
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import numpy as np
import pytest

from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import FileEntry, Inference, Resize
from segdeploy.base.errors import InputError
from segdeploy.base.versions import installed_versions
from segdeploy.images.dataset import Sample
from segdeploy.scores.confusion_matrix import ConfusionMatrix
from segdeploy.scores.report import (
    Method,
    Unused,
    decode_report,
    describe_data,
    describe_model,
    describe_running,
    make_report,
    method_text,
    unused_lines,
)


@pytest.fixture
def report(make_manifest):
    def make(counts=((5, 1, 0), (0, 4, 0), (0, 0, 0)), unused=(), **method):
        manifest = make_manifest(files=(FileEntry(path="model.onnx", sha256="a" * 64, bytes=1),))
        matrix = ConfusionMatrix(3, 255)
        matrix.merge(np.array(counts), 2)
        samples = [Sample(name, Path(name), Path(name)) for name in ("one", "two")]
        values = {"resize": Resize(mode="none"), "inference": Inference(mode="whole"), "scales": (), "flip": False} | method
        return make_report(
            matrix,
            manifest.classes,
            target=describe_model(Artifact(Path("exports/hand"), manifest)),
            data=describe_data(Path("data"), "val", samples, 9),
            method=Method(**values),
            running=describe_running("cpu", 2, 1, installed_versions()),
            unused=unused,
            command="segdeploy eval",
            started=datetime(2025, 1, 2, tzinfo=timezone.utc),
        )

    return make


def test_survives_json(report):
    """What is written is what is read; the file says by itself what was evaluated, on what, how and where."""
    whole = report()
    data = msgspec.json.encode(whole)
    assert decode_report(data, "x") == whole
    values = json.loads(data)
    assert (values["schema"], values["kind"]) == (1, "evaluation")
    assert values["target"]["model_sha256"] == "a" * 64
    assert values["target"]["checkpoint_sha256"] == "c" * 64
    assert values["data"]["root"] == str(Path("data").resolve())
    assert (values["data"]["split"], values["data"]["chosen"], values["data"]["total"]) == ("val", 2, 9)
    assert values["images"] == 2
    assert values["running"]["packages"]["numpy"] == np.__version__
    assert values["confusion"] == [[5, 1, 0], [0, 4, 0], [0, 0, 0]]
    assert values["miou"] == pytest.approx(100 * (5 / 6 + 4 / 5) / 2)
    assert (values["macc"], values["aacc"]) == pytest.approx((100 * (5 / 6 + 1) / 2, 90))
    assert (values["running"]["threads"], values["running"]["processes"]) == (2, 1)
    assert values["classes"][2] == {"name": "c", "iou": None, "acc": None, "pixels": 0}
    assert values["complete"] is True


def test_nothing_labelled_is_null(report):
    """A data set of void alone has no scores; JSON has no NaN."""
    whole = report(np.zeros((3, 3), int))
    text = msgspec.json.encode(whole).decode()
    values = json.loads(text, parse_constant=pytest.fail)
    assert values["miou"] is values["macc"] is values["aacc"] is None
    assert decode_report(text.encode(), "x") == whole


def test_the_same_images_have_the_same_hash():
    """Of their names and order, wherever they lie."""

    def digest(*names):
        return describe_data(Path("x"), "val", [Sample(n, Path(n), Path(n)) for n in names], 3).names_sha256

    assert digest("a", "b") == digest("a", "b")
    assert len({digest("a", "b"), digest("b", "a"), digest("a"), digest("ab"), digest()}) == 5


def test_problems_of_one_kind_share_a_line(report):
    """A hundred images that are too large are one line with the first of them; another fault has its own."""
    large = [Unused(name=f"{i}", expected="H within 1..9", got=f"H = {10 + i}", fix="resize") for i in range(3)]
    whole = report(unused=(*large, Unused(name="x", expected="labels", got="the value 22", fix="check")))
    assert not whole.complete
    assert unused_lines(whole) == [
        "image '0' and 2 more: expected H within 1..9; got H = 10; resize",
        "image 'x': expected labels; got the value 22; check",
    ]


def test_the_method_in_words(report):
    """Crops, scales and flip are said."""
    assert method_text(report().method) == "on whole images"
    slide = Inference(mode="slide", crop=(64, 96), stride=(40, 60))
    text = method_text(report(inference=slide, scales=(0.5, 1.0), flip=True).method)
    assert text == "on crops of 64x96, stride 40x60, at scales 0.5, 1, mirrored too"


@pytest.mark.parametrize(
    ("change", "told"),
    [({"schema": 2}, "schema 2"), ({"extra": 1}, "extra"), ({"miou": "x"}, "miou"), ({"kind": "other"}, "kind")],
)
def test_what_cannot_be_read(report, change, told):
    """Another schema or a wrong field is named."""
    values = json.loads(msgspec.json.encode(report())) | change
    with pytest.raises(InputError, match=told):
        decode_report(json.dumps(values).encode(), "x.json")
