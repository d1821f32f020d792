import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from segdeploy.artifact.folder import record_parity
from segdeploy.artifact.verdict import Parity, Tolerance
from segdeploy.base.errors import InputError
from segdeploy.bench import process
from segdeploy.bench.pictures import PictureCollector
from segdeploy.bench.process import NotRun, WorkerProcess
from segdeploy.bench.result import BenchSettings, encode_report, read_report
from segdeploy.bench.run import Missing, bench
from segdeploy.bench.worker import input_batch, peak_rss_bytes
from segdeploy.images.decode import read_image
from segdeploy.runtime import open_session
from segdeploy.runtime.evaluation import evaluate

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

QUICK = BenchSettings(iterations=7, warmup=2, turn=3, min_time_s=0, max_time_s=20, threads=1, device="cpu")

# The real worker, in which a model of the name 'crash' dies in its first timed call, as a fault in native code would.
CRASHING_WORKER = """
import os
from segdeploy.bench import worker
from segdeploy.runtime.backends.onnx import OnnxSession
execute = OnnxSession.execute
def crash(self, staged):
    if self.artifact.manifest.name == "crash":
        print("the model is cursed", file=__import__("sys").stderr, flush=True)
        os.abort()
    return execute(self, staged)
OnnxSession.execute = crash
worker.main()
"""


def test_a_tiny_artifact_end_to_end(tmp_path, tiny_artifact, samples):
    """A real ONNX model is timed and evaluated in its own process, and every figure of its row is a real one."""
    artifact = tiny_artifact()
    collector = PictureCollector(samples)
    report = bench([artifact], QUICK, samples, data="tiny data", command="cmd", on_predictions=collector)
    (row,) = report.rows
    assert (row.status, row.device, row.shape, row.parity) == ("measured", "cpu", (1, 32, 48), "not verified")
    assert len(row.timing.run_ms) == len(row.timing.execute_ms) == 7
    assert len(row.timing.warmup_run_ms) >= 2 + 3  # the warm-up, and at least one to settle in each of three turns
    assert len(row.timing.warmup_execute_ms) == 2
    assert min(row.timing.run_ms) > 0
    assert row.timing.load_ms > 0
    assert row.timing.peak_rss_bytes is None or row.timing.peak_rss_bytes > 10_000_000
    assert row.size_bytes == artifact.model_path.stat().st_size
    assert (report.data.images, report.data.total, report.command) == (4, 4, "cmd")
    assert report.settings.threads == 1
    path = tmp_path / "bench.json"
    path.write_bytes(encode_report(report))
    assert read_report(path) == report
    assert [picture.name for picture in collector.pictures(report)] == ["0", "1", "2"]


def test_miou_is_what_a_direct_evaluation_gives(tiny_artifact, samples):
    """The report's scores equal those of the same session in this process, on all images and on a limited number."""
    artifact = tiny_artifact()
    with open_session(artifact, "cpu", 1) as session:
        whole, part = evaluate(session, samples), evaluate(session, samples[:2])
    assert 0 < whole.miou < 100
    assert bench([artifact], QUICK, samples).rows[0].evaluation == whole
    limited = bench([artifact], msgspec.structs.replace(QUICK, limit=2), samples)
    assert limited.rows[0].evaluation == part
    assert (limited.data.images, limited.data.total) == (2, 4)


def test_a_crash_is_one_row_and_the_others_are_measured(tmp_path, tiny_artifact, samples, monkeypatch):
    """A worker that dies leaves its signal and last words in its row; the backends before and after it have figures."""
    script = tmp_path / "crashing_worker.py"
    script.write_text(CRASHING_WORKER)
    monkeypatch.setattr(process, "COMMAND", (sys.executable, str(script)))
    names = ("before", "crash", "after")
    report = bench([tiny_artifact(name) for name in names], QUICK, samples[:1])
    assert [row.status for row in report.rows] == ["measured", "not run", "measured"]
    assert "SIGABRT" in report.rows[1].reason
    assert "cursed" in report.rows[1].reason


def test_what_cannot_be_opened_is_a_row_with_the_errors_text(tiny_artifact, foreign_engine):
    """An engine on a machine that cannot run it costs its own row only; a missing reference keeps its reason."""
    missing = Missing("tiny", "eager", "fp32", "c" * 64, "its checkpoint is gone")
    report = bench([missing, foreign_engine(), tiny_artifact()], QUICK)
    eager, engine, onnx = report.rows
    assert (eager.status, eager.reason, eager.shape) == ("not run", "its checkpoint is gone", (1, 32, 48))
    assert engine.status == "not run"
    assert "TensorRT" in engine.reason
    assert (onnx.status, onnx.evaluation, onnx.evaluation_note) == ("measured", None, "no data set: pass --data DIR")


def test_shapes_that_an_artifact_does_not_take_are_not_run(tiny_artifact):
    """Each shape is a row of its own, and the one out of bounds says which bounds."""
    report = bench([tiny_artifact()], msgspec.structs.replace(QUICK, shapes=((40, 60), (512, 512)), batch=2))
    assert [(row.shape, row.status) for row in report.rows] == [((2, 40, 60), "measured"), ((2, 512, 512), "not run")]
    assert "16..256" in report.rows[1].reason


def test_several_batches_are_groups_of_rows(tiny_artifact):
    """Each batch is measured on its own; nobody asked for the work, so none is counted."""
    report = bench([tiny_artifact()], msgspec.structs.replace(QUICK, batch=(1, 3)))
    assert [(row.shape, row.status, row.gmac) for row in report.rows] == [
        ((1, 32, 48), "measured", None), ((3, 32, 48), "measured", None),
    ]  # fmt: skip
    assert report.peaks == ()


def test_labels_that_do_not_fit_leave_latency_and_say_why(tiny_artifact, samples):
    """An evaluation that fails does not take the timings with it."""
    two = tiny_artifact(classes=("dark", "bright"), palette=((0, 0, 0), (9, 9, 9)))
    (row,) = bench([two], QUICK, samples).rows
    assert row.status == "measured"
    assert row.evaluation is None
    assert "labels 0..1" in row.evaluation_note


def test_a_data_set_without_labelled_pixels_has_no_miou(tiny_artifact, samples):
    """A mean over nothing is no number, and the report says so."""
    from PIL import Image

    for sample in samples:
        Image.fromarray(np.full((40, 60), 255, np.uint8)).save(sample.label)
    (row,) = bench([tiny_artifact()], QUICK, samples).rows
    assert (row.evaluation, row.evaluation_note) == (None, "no labelled pixel in the data set")


@pytest.mark.parametrize("verdict", ["passed", "failed", "undecided", "skipped"])
def test_parity_is_the_manifests_verdict(tiny_artifact, verdict):
    """The benchmark repeats what was proven, and proves nothing itself."""
    tolerance = Tolerance(logits_max_abs=1e-4, mask_agreement=1.0, miou_points=0.1)
    parity = Parity(reference="r", inputs="i", device="cpu", tolerance=tolerance, shapes=(), verdict=verdict)
    assert bench([record_parity(tiny_artifact(), parity)], QUICK).rows[0].parity == verdict
    on_gpu = msgspec.structs.replace(parity, device="cuda (x)")
    unproven = "skipped" if verdict == "skipped" else "not verified"
    assert bench([record_parity(tiny_artifact("other"), on_gpu)], QUICK).rows[0].parity == unproven


def test_a_worker_answers_errors_and_goes_on(tiny_artifact):
    """A request that cannot be met is answered, and the next one is served."""
    with WorkerProcess() as worker:
        worker.open(tiny_artifact(), "cpu", 1)
        with pytest.raises(NotRun, match=r"16\.\.256"):
            worker.prepare((1, 8, 8), [], seed=0, warmup=0)
        worker.prepare((1, 32, 32), [], seed=0, warmup=0)
        assert len(worker.turn(2).run_ms) == 2


def test_a_worker_that_cannot_start_says_its_last_words():
    """A process that ends before it answers is a reason, not a traceback."""
    with (
        WorkerProcess([sys.executable, "-c", "raise SystemExit('no such module')"]) as worker,
        pytest.raises(NotRun, match="exit status 1; its last words: no such module"),
    ):
        worker.turn(1)


def test_input_is_the_same_for_every_backend(samples):
    """Noise follows from its seed; pictures are taken in turn and resized until the batch is full."""
    noise = input_batch((2, 16, 24), [], 5)
    assert (noise.shape, noise.dtype) == ((2, 16, 24, 3), np.uint8)
    assert np.array_equal(noise, input_batch((2, 16, 24), [], 5))
    assert not np.array_equal(noise, input_batch((2, 16, 24), [], 6))
    real = input_batch((3, 40, 60), [samples[0].image, samples[1].image], 0)
    assert np.array_equal(real[2], read_image(samples[0].image))
    with pytest.raises(InputError):
        input_batch((1, 8, 8), [Path("none.png")], 0)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_peak_memory_is_the_processs_own():
    """A small child of a process that holds 300 MB does not report its parent's memory as its own."""
    block = np.ones(300_000_000, np.uint8)
    code = "from segdeploy.bench.worker import peak_rss_bytes; print(peak_rss_bytes())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 10_000_000 < int(told.stdout) < block.nbytes <= peak_rss_bytes()
