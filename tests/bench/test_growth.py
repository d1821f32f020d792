import msgspec
import numpy as np
import pytest

from segdeploy.bench import growth
from segdeploy.bench.growth import Curve, GrowthReport, Point, measure_growth, tiled
from segdeploy.bench.process import WorkerProcess
from segdeploy.bench.worker import coarse_picture
from segdeploy.runtime import open_session
from segdeploy.runtime.predictor import predict_labels

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


@pytest.fixture
def few(monkeypatch):
    """Curves of two points each."""
    monkeypatch.setattr(growth, "_SIDES", (64, 128))
    monkeypatch.setattr(growth, "_BATCHES", (1, 16))
    monkeypatch.setattr(growth, "_IMAGES", (2, 4))
    monkeypatch.setattr(growth, "TILED_SIDES", (100, 200, 4096))


def test_the_curves_of_an_artifact(few, tiny_artifact):
    """Each point holds real values; sizes that it does not take are left out, and so is a curve of one point."""
    found = measure_growth([tiny_artifact()], device="cpu", threads=1, calls=2, largest=1000)
    assert [curve.name for curve in found.curves] == ["pixels", "images", "tiles"]
    pixels, images, tiles = found.curves
    assert [(point.value, point.label) for point in pixels.points] == [(64 * 64, "1 x 64x64"), (128 * 128, "1 x 128x128")]
    assert [point.label for point in images.points] == ["2 pictures of 32x48", "4 pictures of 32x48"]
    assert [(point.value, point.label) for point in tiles.points] == [(100**2, "100x100"), (200**2, "200x200")]
    for curve in found.curves:
        for point in curve.points:
            assert point.reason is None
            assert len(point.ms) == (2 if curve is pixels else 1)
            assert min(point.ms) > 0
            assert point.peak_rss_bytes is None or point.peak_rss_bytes > 10_000_000
    assert msgspec.json.decode(msgspec.json.encode(found), type=GrowthReport) == found


def test_classes_are_a_curve_across_models(tiny_artifact, foreign_engine):
    """One model a number of classes; one that cannot run is a point with its reason."""
    engine = foreign_engine()
    manifest = msgspec.structs.replace(engine.manifest, classes=("a", "b"), palette=((0, 0, 0), (9, 9, 9)))
    other = type(engine)(engine.folder, manifest)
    found = measure_growth([tiny_artifact(), other], device="cpu", threads=1, calls=1, names=["classes"])
    (classes,) = found.curves
    assert [(point.value, point.label) for point in classes.points] == [(2, "2 classes"), (3, "3 classes")]
    assert "TensorRT" in classes.points[0].reason
    assert classes.points[1].ms
    assert classes.exponent is None
    assert classes.verdict == "not known"


@pytest.mark.parametrize(
    ("power", "verdict"),
    [(0.6, "linear or better"), (1.0, "linear or better"), (1.2, "worse than linear"), (2.0, "worse than linear")],
)
def test_the_exponent_is_of_the_power_law(power, verdict):
    """Through the medians, on whatever scale; a value beside them does not count, nor does a point that was not run."""
    points = [Point(n, str(n), (7 * n**power, 7 * n**power, 1e9)) for n in (10, 40, 1000)]
    curve = Curve("pixels", "m", (*points, Point(5000, "5000", reason="no")))
    assert curve.exponent == pytest.approx(power)
    assert curve.verdict == verdict


def test_a_worker_cuts_a_large_picture_into_tiles(tiny_artifact):
    """Larger than the artifact takes: what the worker runs is slide inference at the picture's own size."""
    artifact = tiny_artifact()
    assert tiled(artifact).manifest.inference.crop == (32, 48)
    image = coarse_picture(300, 270, 0)
    assert image.shape == (300, 270, 3)
    assert not np.array_equal(image, coarse_picture(300, 270, 1))
    with open_session(tiled(artifact), "cpu", 1) as session:
        labels = predict_labels(session, image)
    assert labels.shape == (300, 270)
    assert len(np.unique(labels)) == 3
    with WorkerProcess() as worker:
        worker.open(tiled(artifact), "cpu", 1)
        timed = worker.pictures((2, 300, 270), seed=0)
    assert len(timed.run_ms) == 1
