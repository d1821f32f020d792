"""``make test-gpu``, dry: the driver's own tool is a fake that names a GPU; all else is what runs on a GPU machine.

That shows what the lane reports and how it judges. It shows nothing about a GPU.
"""

import json
import sys

import gpu_lane
import pytest

SMI = """#!/bin/sh
case "$1" in
  *driver_version,compute_cap*) echo "NVIDIA Pretend, 575.1, 8.9, 24564 MiB" ;;
  *compute_cap*) echo "NVIDIA Pretend, 8.9" ;;
  *) echo "NVIDIA Pretend, 24564 MiB, 575.1" ;;
esac
"""
TESTS = """
import pytest
@pytest.mark.gpu
def test_good(): pass
@pytest.mark.gpu
def test_bad(): assert 1 == 2, "wrong | answer"
@pytest.mark.gpu
def test_left(): pytest.skip("no such engine")
def test_of_a_cpu(): assert False
"""


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """The driver's edge: ``nvidia-smi`` answers."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(SMI)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.slow
def test_a_dry_run(driver, tmp_path, onnx_artifact):
    """The whole lane with a real doctor, pytest and bench: all is told as it was, and nothing counts as measured on a GPU."""
    (tmp_path / "test_some.py").write_text(TESTS)
    out = tmp_path / "report"
    status = gpu_lane.main(
        ["--out", str(out), "--tests", str(tmp_path / "test_some.py"), "--artifact", str(onnx_artifact.folder)]
    )
    report = json.loads((out / "report.json").read_text())
    assert status == 3
    assert report["verdict"] == "failed"
    assert report["device"]["name"] == "NVIDIA Pretend"
    assert report["device"]["driver_version"] == "575.1"
    assert [name.rpartition("::")[2] for name in report["tests"]["passed"]] == ["test_good"]
    assert [name.rpartition("::")[2] for name in report["tests"]["failed"]] == ["test_bad"]
    assert list(report["tests"]["skipped"].values()) == ["no such engine"]
    assert {row["backend"] for row in report["bench"]} >= {"onnx"}
    assert all(row["status"] == "not run" and row["reason"] for row in report["bench"])
    assert "no onnx row was measured on CUDA" in report["reasons"]
    text = (out / "report.md").read_text()
    for word in ("NVIDIA Pretend", "575.1", "1 passed, 1 failed, 1 skipped", "no such engine", "not run"):
        assert word in text
    assert "make test-gpu" in (out / "doctor.log").read_text()
    assert (out / "junit.xml").is_file()


def report(**changes):
    measured = [{"backend": name, "device": "cuda:0", "status": "measured"} for name in gpu_lane.BACKENDS]
    tests = {"passed": ["a"], "failed": {}, "skipped": {}}
    return {"device": {"name": "x"}, "tests": tests, "bench": measured, "steps": [], "missing": []} | changes


@pytest.mark.parametrize(
    ("changes", "status", "word"),
    [
        ({}, 0, None),
        ({"device": None}, 4, "no NVIDIA GPU"),
        ({"tests": {"passed": ["a"], "failed": {"b": ""}, "skipped": {}}}, 3, "1 tests failed"),
        ({"tests": {"passed": ["a"], "failed": {}, "skipped": {"b": ""}}}, 4, "1 tests were skipped"),
        ({"tests": {"passed": [], "failed": {}, "skipped": {}}}, 4, "no test passed"),
        ({"bench": []}, 4, "no tensorrt row"),
        ({"bench": [{"backend": "onnx", "device": "cpu", "status": "measured"}]}, 4, "no onnx row"),
        ({"steps": [{"step": "pytest", "status": "out of time"}]}, 4, "pytest ran out of time"),
        ({"missing": ["tensorrt"]}, 4, "tensorrt is not among the wheels"),
    ],
)
def test_only_all_of_it_passes(changes, status, word):
    """What was skipped, not measured or missing is never a pass."""
    found, reasons = gpu_lane.judged(report(**changes))
    assert found == status
    assert (word is None and not reasons) or any(word in one for one in reasons)


def test_a_step_ends_at_its_time(tmp_path):
    """A step that hangs is ended with all that it started, and says so."""
    lane = gpu_lane.Lane(tmp_path, 0.5)
    assert lane.run("hang", [sys.executable, "-c", "import time; print('begun'); time.sleep(600)"]) != 0
    assert lane.steps[0]["status"] == "out of time"
    assert lane.steps[0]["seconds"] < 60


def test_wheels_that_are_missing(tmp_path, monkeypatch):
    """From an empty folder and no network nothing can be installed: each package is named."""
    monkeypatch.setattr(gpu_lane, "PACKAGES", ("no-such-package-a",))
    (tmp_path / "wheels").mkdir()
    python, missing = gpu_lane.install(gpu_lane.Lane(tmp_path, 200), tmp_path / "wheels")
    assert missing == ["no-such-package-a"]
    assert python.startswith(str(tmp_path))
