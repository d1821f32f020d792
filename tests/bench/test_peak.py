import sys

import pytest

from segdeploy.bench import peak
from segdeploy.bench.peak import measure_peaks
from segdeploy.bench.report import cells
from segdeploy.bench.result import Peak, encode_report, read_report
from segdeploy.bench.stats import peak_gmac_s, share_of_peak
from segdeploy.bench.words import notes

FP32 = Peak(precision="fp32", device="cpu", runtime="torch 2", gmac=8.0, run_ms=(50.0, 40.0, 60.0))
INT8 = Peak(precision="int8", device="cpu", runtime="torch", gmac=8.0, run_ms=(), reason="RuntimeError: no such thing")


def test_products_are_timed_in_every_precision_of_the_machine(monkeypatch):
    """Of each kind several values, with the runtime's version; what a runtime lacks is a reason."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    monkeypatch.setitem(peak._SIDES, "cpu", 64)
    monkeypatch.setitem(peak._MAPS, "cpu", (1, 8, 4))
    monkeypatch.setattr(peak, "_ENOUGH_S", 0)
    found = peak.products(1, "cpu")
    assert [(one.precision, one.device) for one in found] == [("fp32", "cpu"), ("bf16", "cpu"), ("int8", "cpu")]
    for one in found:
        assert (one.reason is None) == (len(one.run_ms) == 5), one
    assert found[0].reason is None
    assert found[0].gmac in {64**3 / 1e9, 8**2 * 4**2 * 9 / 1e9, 8**2 * 4**2 / 1e9}
    assert found[0].runtime.startswith("torch 2")

    def broken():
        raise RuntimeError("no\nbf16 here")

    one = peak._peak("bf16", "cpu", "torch", broken)
    assert (one.run_ms, one.reason) == ((), "RuntimeError: no bf16 here")


@pytest.mark.parametrize(("fastest", "gmac"), [("mm", 64**3), (3, 32**2 * 4**2 * 9), (1, 32**2 * 4**2)])
def test_the_peak_is_the_fastest_of_product_and_convolutions(monkeypatch, fastest, gmac):
    """By work a second, not by time: else a model's convolutions would use more than all of the machine."""
    torch = pytest.importorskip("torch")
    monkeypatch.setitem(peak._SIDES, "cpu", 64)
    monkeypatch.setitem(peak._MAPS, "cpu", (1, 32, 4))
    took = {"mm": 10.0, 3: 10.0, 1: 10.0, fastest: 1e-3}
    monkeypatch.setattr(peak, "_torch", lambda *_: "mm")
    monkeypatch.setattr(peak, "_convolution", lambda _torch, _precision, _device, taps: taps)
    monkeypatch.setattr(peak, "_timed", lambda call: (took[call],))
    found = peak._fastest(torch, "fp32", "cpu")
    assert (found.gmac, found.run_ms) == (pytest.approx(gmac / 1e9), (1e-3,))


def test_a_machine_without_torch_has_numpys_product(monkeypatch):
    """A box that serves ONNX is told its float32 peak too."""
    monkeypatch.setitem(peak._SIDES, "cpu", 64)
    monkeypatch.setattr(peak, "_ENOUGH_S", 0)
    monkeypatch.setitem(sys.modules, "torch", None)
    found = peak.products(1, "cpu")
    assert (found[0].precision, found[0].runtime.split()[0], len(found[0].run_ms)) == ("fp32", "numpy", 5)


def test_a_process_that_fails_is_a_reason():
    """It costs the shares, not the benchmark."""
    (one,) = measure_peaks(1, "cpu", [sys.executable, "-c", "raise SystemExit(3)"])
    assert one.run_ms == ()
    assert "could not be timed" in one.reason


def test_the_share_is_the_models_work_over_the_fastest_product(report, row, tmp_path):
    """2 GMAC in 20 ms are 100 a second; the fastest product did 8 in 40 ms: 200 a second."""
    eager = row("eager", (40.0,) * 20, gmac=2.0)
    onnx, int8 = row("onnx", (20.0,) * 20), row("onnx", (20.0,) * 20, precision="int8")
    made = report(eager, onnx, int8, peaks=(FP32, INT8))
    assert peak_gmac_s(FP32) == pytest.approx(200)
    assert peak_gmac_s(INT8) is None
    assert share_of_peak(made, onnx) == pytest.approx(0.5)
    assert share_of_peak(made, eager) == pytest.approx(0.25)
    assert share_of_peak(made, int8) is None, "its own precision was not timed"
    assert share_of_peak(report(onnx, peaks=(FP32,)), onnx) is None, "nobody counted the work"
    assert cells(made, onnx, "onnx-fp32")["of peak"] == "50 %"
    assert cells(report(eager, onnx), onnx, "onnx-fp32")["of peak"] == "-"
    said = " ".join(notes(made))
    assert "fp32 200 (torch 2 on cpu)" in said
    assert "int8 on cpu not timed: RuntimeError" in said
    assert "needs 2.00" in said
    path = tmp_path / "b.json"
    path.write_bytes(encode_report(made))
    assert read_report(path) == made


def test_a_variation_is_never_the_reference(report, row):
    """What is compared is the model as mmseg runs it."""
    varied = row("eager", (10.0,) * 20, gmac=2.0, variation="compile")
    onnx = row("onnx", (20.0,) * 20)
    assert share_of_peak(report(varied, onnx, peaks=(FP32,)), onnx) is None
