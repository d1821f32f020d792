import json
import sys
from pathlib import Path

import pytest

from segdeploy.bench.result import read_report
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


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--backend", "tensorflow"), "eager, torchscript, pt2, onnx, tensorrt; got 'tensorflow'"),
        (("--backend", "torchscript"), "segdeploy export --to torchscript"),
        (("--data", "nowhere"), "got no such folder"),
        (("--shape", "12"), "such as 512x512"),
        (("elsewhere",), "expected an artifact"),
    ],
)
def test_mistakes_are_answered_before_anything_is_measured(segdeploy, tiny_artifact, arguments, text):
    """A wrong name, folder or shape is one line and exit 1."""
    tiny_artifact()
    status, out, err = segdeploy(*QUICK, *arguments)
    assert status == 1
    assert text in err
    assert out == ""
