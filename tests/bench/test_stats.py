import numpy as np
import pytest

from segdeploy.bench import stats


def test_statistics_of_known_values():
    """The values 1..101 have the median 51, the 90th percentile 91 and the 99th 100, whatever their order."""
    values = np.random.default_rng(0).permutation(np.arange(1.0, 102.0))
    found = stats.latency_stats(values)
    assert (found.count, found.min_ms, found.median_ms, found.p90_ms, found.p99_ms) == (101, 1, 51, 91, 100)
    assert found.dispersion == pytest.approx((76 - 26) / 51)


@pytest.mark.parametrize(("count", "known"), [(1, False), (99, False), (100, True)])
def test_no_p99_of_too_few_values(count, known):
    """The 99th percentile is given from 100 values on, and never made up below."""
    assert (stats.latency_stats(np.arange(1.0, count + 1)).p99_ms is not None) is known


def test_throughput_counts_images_of_a_batch(row):
    """A batch of four in 10 ms is 400 images a second."""
    assert stats.throughput(row(shape=(4, 32, 48))) == pytest.approx(400)


def test_speedup_and_delta_are_against_eager_of_the_same_checkpoint_and_shape(row, report):
    """Another checkpoint's or shape's eager row is no reference."""
    fast = row(run_ms=(5.0,) * 20, miou=49.0)
    other_model = row("eager", checkpoint_sha256="e" * 64)
    other_shape = row("eager", shape=(1, 64, 64))
    without = report(other_model, other_shape, fast)
    assert stats.speedup(without, fast) is None
    assert stats.miou_delta(without, fast) is None
    against = report(other_model, other_shape, row("eager", run_ms=(20.0,) * 20), fast)
    assert stats.speedup(against, fast) == pytest.approx(4)
    eager = row("eager", run_ms=(2.0, *(20.0,) * 20, 500.0))
    skewed = row(run_ms=(1.0, *(5.0,) * 20, 900.0))
    assert stats.speedup(report(eager, skewed), skewed) == pytest.approx(4)  # of medians: one call, fast or slow, moves nothing
    assert stats.miou_delta(against, fast) == pytest.approx(-1)


def test_rows_without_a_checkpoint_have_no_reference(row, report):
    """Two models of random weights are not taken for the same one."""
    fast, eager = row(checkpoint_sha256=None), row("eager", checkpoint_sha256=None)
    assert stats.speedup(report(eager, fast), fast) is None


def test_a_reference_that_was_not_run_gives_no_figures(row, report):
    """Nothing is compared with a row that has no values."""
    fast = row()
    assert stats.speedup(report(row("eager", reason="no torch"), fast), fast) is None


def test_scattered_latencies_are_said_to_be_unstable(row, report):
    """A wide middle half is reported with a remedy, a narrow one is not."""
    steady = report(row(run_ms=np.linspace(10, 10.5, 50)))
    assert stats.cautions(steady) == ()
    (caution,) = stats.cautions(report(row(run_ms=np.linspace(10, 20, 50))))
    assert "may be unstable" in caution
    assert "--iterations" in caution


@pytest.mark.parametrize(
    ("other", "cpus", "said"), [(0.1, 2, False), (0.9, 2, True), (0.9, 8, False), (7.0, 8, True), (None, 2, False)]
)
def test_a_busy_machine_is_said(row, report, other, cpus, said):
    """Other programs matter where they leave fewer free CPUs than the two threads of the run."""
    found = stats.cautions(report(row(), other_cpus=other, cpus=cpus))
    assert any("Other programs" in text for text in found) is said


def test_few_values_are_said(row, report):
    """A dispersion of a handful of values is not trusted."""
    (caution,) = stats.cautions(report(row(run_ms=(1.0, 2.0, 3.0))))
    assert "too few values (3)" in caution


def test_labels_are_as_short_as_tells_artifacts_apart(row, report):
    """The model's name appears where two models are measured, the folder where even that is the same."""
    assert stats.row_labels(report(row("eager"), row(), row(shape=(1, 64, 64)))) == ("eager", "onnx-fp32", "onnx-fp32")
    two = report(row(), row(model="other", folder="exports/other/onnx-fp32"))
    assert stats.row_labels(two) == ("tiny/onnx-fp32", "other/onnx-fp32")
    same = report(row(), row(folder="elsewhere"))
    assert stats.row_labels(same) == ("exports/tiny/onnx-fp32", "elsewhere")
