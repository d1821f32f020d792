import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from segdeploy.bench.result import read_report
from segdeploy.cli import bench
from segdeploy.cli.main import main

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

QUICK = ("--iterations", "6", "--min-time", "0", "--threads", "1", "--device", "cpu")


@pytest.fixture
def segdeploy(tmp_path, monkeypatch, capsys):
    """Runs the command line in a folder of its own; gives the exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["segdeploy", "bench", *arguments])
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code
        captured = capsys.readouterr()
        return status or 0, captured.out, captured.err

    return run


def test_without_arguments_everything_under_exports_is_measured(segdeploy, tiny_artifact):
    """The table names each artifact; the reference that is missing has its reason; nothing is written."""
    tiny_artifact()
    before = sorted(Path().rglob("*"))
    status, out, err = segdeploy(*QUICK)
    assert status == 0
    assert "onnx-fp32" in out
    assert "eager at 1 x 32x48 was not run: its manifest names no checkpoint" in out
    assert "--html" in err
    assert sorted(Path().rglob("*")) == before


def test_json_and_html_say_the_same(segdeploy, tiny_artifact, data_root):
    """Both files are written from one report, with the command that made it."""
    pytest.importorskip("matplotlib")
    tiny_artifact()
    status, out, _ = segdeploy(*QUICK, "--data", str(data_root), "--limit", "2", "--json", "b.json", "--html", "b.html")
    assert status == 0
    report = read_report(Path("b.json"))
    page = Path("b.html").read_text()
    assert report.command.startswith("segdeploy bench --iterations 6")
    assert report.command in page
    miou = f"{report.rows[1].evaluation.miou:.2f}"
    assert miou in out
    assert miou in page
    assert page.count("data:image/png;base64,") == 2 * 3
    assert "only the first 2 of 4 images" in out


def test_a_backend_that_cannot_run_here_ends_with_one_clear_error(segdeploy, tiny_artifact, foreign_engine):
    """The table gives the reason, the files are written, the exit status is 1, and there is no traceback."""
    tiny_artifact()
    foreign_engine()
    status, out, err = segdeploy(*QUICK, "--backend", "tensorrt", "--json", "b.json")
    assert status == 1
    assert "tensorrt-fp32 at 1 x 32x48 was not run: expected" in out
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert "none of tensorrt-fp32" in line
    assert "Traceback" not in out + err
    assert json.loads(Path("b.json").read_text())["rows"][0]["status"] == "not run"


def test_one_of_several_that_cannot_run_is_no_error(segdeploy, tiny_artifact, foreign_engine):
    """What could be measured is a result, and what could not has its row in it."""
    tiny_artifact()
    foreign_engine()
    status, out, _ = segdeploy(*QUICK)
    assert status == 0
    assert "tensorrt-fp32 at 1 x 32x48 was not run" in out


def test_broken_artifacts_are_rows_among_the_good_ones(segdeploy, tiny_artifact):
    """An altered model, a cut manifest and a folder without a model cost themselves only: in table, JSON and HTML."""
    pytest.importorskip("matplotlib")
    tiny_artifact("good")
    altered, cut, emptied = (tiny_artifact(name).folder for name in ("altered", "cut", "emptied"))
    (altered / "model.onnx").write_bytes(b"not what was exported")
    (cut / "manifest.json").write_text((cut / "manifest.json").read_text()[:99])
    (emptied / "model.onnx").unlink()
    status, out, err = segdeploy(*QUICK, "--json", "b.json", "--html", "b.html")
    assert status == 0
    assert "Traceback" not in out + err
    rows = {Path(row.folder).parent.name: row for row in read_report(Path("b.json")).rows if row.backend != "eager"}
    assert {name: row.status for name, row in rows.items()} == {
        "good": "measured", "altered": "not run", "cut": "not run", "emptied": "not run",
    }  # fmt: skip
    page = Path("b.html").read_text()
    for name, words in (("altered", "model.onnx"), ("cut", "manifest.json"), ("emptied", "model.onnx")):
        assert words in rows[name].reason
        assert rows[name].reason in out
        assert name in page


@pytest.mark.parametrize(
    ("part", "size", "status", "note"),
    [("img_dir", (40, 60), 0, "None"), ("img_dir", (41, 60), 1, "--max-pixels"), ("ann_dir", (41, 60), 0, "--max-pixels")],
)
def test_max_pixels_holds_for_pictures_and_label_maps(segdeploy, tiny_artifact, data_root, part, size, status, note):
    """One that has just as many is read; of a larger one neither the picture, to time on, nor the label map, to score with."""
    tiny_artifact()
    Image.new("L", size[::-1]).save(data_root / part / "val" / "0.png")
    ended, _, _ = segdeploy(*QUICK, "--data", str(data_root), "--max-pixels", str(40 * 60), "--json", "b.json")
    (row,) = [row for row in read_report(Path("b.json")).rows if row.backend == "onnx"]
    assert ended == status
    assert note in str(row.reason if status else row.evaluation_note)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--backend", "tensorflow"), "eager, torchscript, pt2, onnx, openvino, tensorrt; got 'tensorflow'"),
        (("--backend", "torchscript"), "segdeploy export --to torchscript"),
        (("--data", "nowhere"), "got no such folder"),
        (("--shape", "12"), "such as 512x512"),
        (("elsewhere",), "expected an artifact"),
        (("--suite", "unet"), "upernet-r18, upernet-r50, upernet-r101; got 'unet'"),
        (("--suite", "upernet-r18", "exports"), "--suite or ARTIFACTS"),
        (("--suite", "upernet-r18", "--backend", "tensorflow"), "got 'tensorflow'"),
    ],
)
def test_mistakes_are_answered_before_anything_is_measured(segdeploy, tiny_artifact, arguments, text):
    """A wrong name, folder or shape is one line and exit 1."""
    tiny_artifact()
    status, out, err = segdeploy(*QUICK, *arguments)
    assert status == 1
    assert text in err
    assert out == ""


def test_growth_prints_and_writes_its_curves(segdeploy, tiny_artifact, monkeypatch):
    """A table and an exponent a curve; the file holds the same; nothing of the usual report."""
    import msgspec

    from segdeploy.bench import growth

    monkeypatch.setattr(growth, "_SIDES", (64, 128))
    assert bench._CURVES == growth.CURVES
    tiny_artifact()
    status, out, _ = segdeploy(
        "--growth", "--curve", "pixels", "--iterations", "2", "--threads", "1", "--largest", "128", "--json", "g.json"
    )
    assert status == 0
    found = msgspec.json.decode(Path("g.json").read_bytes(), type=growth.GrowthReport)
    (curve,) = found.curves
    assert f"cost ~ pixels^{curve.exponent:.2f}: {curve.verdict}" in out
    assert "1 x 128x128" in out
    assert found.command.startswith("segdeploy bench --growth")


def test_a_suite_is_measured_like_artifacts_that_were_named(segdeploy, tiny_artifact, monkeypatch):
    """What could be made has figures, what could not its reason; a suite asks for the peak, and for short turns."""
    from segdeploy.bench import run
    from segdeploy.bench.run import Missing
    from segdeploy.suite import make

    monkeypatch.setattr(run, "measure_peaks", lambda threads, device: ())
    rows = [tiny_artifact(), Missing("upernet-r18", "pt2", "fp32", "c" * 64, "there is no compiler")]
    monkeypatch.setattr(make, "make_suite", lambda suite, wanted, checkpoint, say: rows)
    quick = ("--iterations", "2", "--min-time", "0", "--threads", "1", "--device", "cpu", "--shape", "32x48")
    status, out, _ = segdeploy("--suite", "upernet-r18", *quick, "--json", "b.json")
    assert status == 0
    assert "pt2-fp32 was not run: there is no compiler" in out
    settings = read_report(Path("b.json")).settings
    assert (settings.peak, settings.turn, settings.max_time_s, settings.batch) == (True, 2, 1800, (1,))
