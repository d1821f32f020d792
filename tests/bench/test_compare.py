import msgspec
import numpy as np
import pytest

from segdeploy.base.errors import GateFailed, GateUndecided
from segdeploy.bench.compare import compare_reports, gate, ratio_interval
from segdeploy.bench.compare_text import summary, table
from segdeploy.bench.result import BenchSettings, DataSet

TEN = BenchSettings(threads=2, iterations=100, turn=10)


def latencies(median, *, turns=10, between=0.02, within=0.01, seed=0):
    """Raw values in turns of ten: what varies from turn to turn, and less from call to call."""
    random = np.random.default_rng(seed)
    levels = median * (1 + between * random.standard_normal(turns))
    return tuple(float(v) for level in levels for v in level * (1 + within * random.standard_normal(10)))


def two(report, row, old, new, **changes):
    return compare_reports(report(row(run_ms=old), settings=TEN), report(row(run_ms=new), settings=TEN, **changes))


def test_a_change_beyond_the_noise(row, report):
    """A fifth slower or faster is said with its interval; the two directions mirror each other."""
    old, new = latencies(10.0, seed=1), latencies(12.0, seed=2)
    (one,) = two(report, row, old, new).rows
    assert one.verdict == "slower"
    assert one.ratio == pytest.approx(1.2, abs=0.04)
    assert one.interval[0] < one.ratio < one.interval[1]
    found = two(report, row, new, old)
    assert found.rows[0].verdict == "faster"
    said = " ".join(summary(found))
    assert "onnx-fp32 at 1 x 32x48 is faster by 1" in said
    assert "not what differs from run to run" in said


def test_a_change_within_the_noise(row, report):
    """The same latencies but for what varies between turns anyway are not called a change."""
    found = two(report, row, latencies(10.0, between=0.05, seed=1), latencies(10.0, between=0.05, seed=2))
    assert found.rows[0].verdict == "within the noise"
    assert "Within the noise: onnx-fp32 at 1 x 32x48." in summary(found)


def test_the_interval_covers_what_it_should():
    """Of runs that differ by nothing but noise, about one in twenty is called a change: far from one in two, which is what
    calls that are taken as independent would give."""
    outside = blind = 0
    for seed in range(100):
        old, new = latencies(10.0, turns=12, seed=2 * seed), latencies(10.0, turns=12, seed=2 * seed + 1)
        low, high = ratio_interval(old, new, turn=10)
        outside += not low <= 1 <= high
        low, high = ratio_interval(old, new, turn=1)
        blind += not low <= 1 <= high
    assert outside < 0.15 * 100
    assert blind > 2 * outside


def test_too_few_turns(row, report):
    """Four turns say nothing of the noise, and no verdict is given."""
    found = two(report, row, latencies(10.0, turns=4), latencies(20.0, turns=4))
    assert (found.rows[0].verdict, found.rows[0].interval) == ("too few turns", None)
    assert "Raise --iterations" in " ".join(summary(found))


def test_other_machines_are_not_compared(row, report):
    """The figures are shown; which is faster is not said, and a latency gate is undecided. mIoU may be compared."""
    other = BenchSettings(threads=4, iterations=100, turn=10)
    old, new = report(row(run_ms=latencies(10.0)), settings=TEN), report(row(run_ms=latencies(20.0)), settings=other)
    found = compare_reports(old, new)
    assert found.rows[0].verdict == "not comparable"
    assert "cannot be compared: threads: 2 and 4" in summary(found)[0]
    assert not any(" is slower" in line for line in summary(found))
    with pytest.raises(GateUndecided, match="latency of onnx-fp32"):
        gate(found, max_drop=None, max_slowdown=10)
    gate(found, max_drop=0.1, max_slowdown=None)


def test_rows_are_matched_by_backend_and_shape(row, report):
    """A row of one run only, or one that was not run, is shown with the reason; none is dropped."""
    old = report(row("eager"), row(), row(shape=(1, 64, 64)), settings=TEN)
    new = report(row("torchscript"), row(reason="no onnxruntime"), row("eager"), settings=TEN)
    found = compare_reports(old, new)
    named = [(one.backend, one.shape, one.verdict, one.reason) for one in found.rows]
    assert named == [
        ("eager", (1, 32, 48), "too few turns", ""),
        ("onnx-fp32", (1, 32, 48), "not in both", "not run in the second: no onnxruntime"),
        ("onnx-fp32", (1, 64, 64), "not in both", "not part of the second run"),
        ("torchscript-fp32", (1, 32, 48), "not in both", "not part of the first run"),
    ]
    with pytest.raises(GateUndecided, match=r"mIoU of onnx-fp32 at 1 x 32x48, mIoU of onnx-fp32 at 1 x 64x64"):
        gate(found, max_drop=1, max_slowdown=None)


def test_several_models(row, report):
    """The model's name tells rows apart where a run has several, and is left out where each has one."""
    renamed = compare_reports(report(row(model="a"), settings=TEN), report(row(model="b"), settings=TEN))
    assert [(one.model, one.old_ms, one.new_ms) for one in renamed.rows] == [("", 10.0, 10.0)]
    both = report(row(model="a"), row(model="b", run_ms=(20.0,) * 20), settings=TEN)
    found = compare_reports(both, report(row(model="b"), row(model="a"), settings=TEN))
    assert [(one.model, one.old_ms, one.new_ms) for one in found.rows] == [("a", 10.0, 10.0), ("b", 20.0, 10.0)]
    twice = report(row(folder="x"), row(folder="y", run_ms=(30.0,) * 20), settings=TEN)
    assert [one.old_ms for one in compare_reports(twice, twice).rows] == [10.0, 30.0]


def test_against_eager(row, report):
    """What slowed the whole machine slows eager too: the ratio to it is shown beside the change."""
    old = report(row("eager", run_ms=(20.0,) * 100), row(run_ms=(10.0,) * 100), settings=TEN)
    new = report(row("eager", run_ms=(40.0,) * 100), row(run_ms=(20.0,) * 100), settings=TEN)
    eager, onnx = compare_reports(old, new).rows
    assert (onnx.old_eager, onnx.new_eager, onnx.ratio) == (0.5, 0.5, 2.0)
    assert (eager.old_eager, eager.new_eager) == (None, None)


def test_miou(row, report):
    """Its difference is in the table; the gate is in points; other images are not compared."""
    old, new = report(row(miou=50.0), settings=TEN), report(row(miou=49.0), settings=TEN)
    found = compare_reports(old, new)
    columns, rows = table(found)
    assert len(columns) == len(rows[0])
    assert rows[0][-2:] == ["50.00 → 49.00", "-1.00"]
    gate(found, max_drop=1.0, max_slowdown=None)
    with pytest.raises(GateFailed, match=r"mIoU of onnx-fp32 at 1 x 32x48 to fall by at most 0\.5"):
        gate(found, max_drop=0.5, max_slowdown=None)
    elsewhere = msgspec.structs.replace(new, data=DataSet(name="data (val)", images=2, total=4))
    other = compare_reports(old, elsewhere)
    assert "The mIoU cannot be compared: 4 images of data (val), and 2 images of data (val)." in summary(other)
    with pytest.raises(GateUndecided):
        gate(other, max_drop=99, max_slowdown=None)


def test_the_latency_gate_holds_only_what_is_certain(row, report):
    """The limit is held against the interval's lower end: noise does not fail a build, a slowdown beyond it does."""
    found = two(report, row, latencies(10.0, seed=1), latencies(12.0, seed=2))
    gate(found, max_drop=None, max_slowdown=20)
    with pytest.raises(GateFailed, match=r"at most 10 % slower; got (1|2)\d\.\d %"):
        gate(found, max_drop=None, max_slowdown=10)
    gate(two(report, row, latencies(12.0, seed=2), latencies(10.0, seed=1)), max_drop=None, max_slowdown=0)


def test_what_either_run_says_of_itself(row, report):
    """Its own cautions are repeated with whose they are."""
    busy = report(row(run_ms=latencies(10.0)), settings=TEN, other_cpus=2.0)
    found = compare_reports(report(row(run_ms=latencies(10.0)), settings=TEN), busy)
    assert [line for line in found.cautions if line.startswith("second run: Other programs")]
