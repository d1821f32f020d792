import numpy as np
import pytest

from segdeploy.bench.report import COLUMNS, cells, print_report
from segdeploy.bench.result import BenchSettings
from segdeploy.bench.words import headline, notes, number


@pytest.mark.parametrize(
    ("value", "spec", "text"),
    [
        (None, "ms", "-"),
        (0.123, "ms", "0.12"),
        (12.34, "ms", "12.3"),
        (1234.5, "ms", "1234"),
        (-0.001, "+.2f", "0.00"),
        (0.0, "+.2f", "0.00"),
        (0.5, "+.2f", "+0.50"),
        (-0.5, "+.2f", "-0.50"),
    ],
)
def test_figures_are_short_and_a_difference_of_nothing_has_no_sign(value, spec, text):
    """A missing figure is a dash; what rounds to zero is zero."""
    assert number(value, spec) == text


def test_every_cell_of_a_row_that_was_not_run_is_a_dash(row, report):
    """Its parity too: a verdict beside missing figures would read as a success."""
    one = row("tensorrt", reason="no GPU", parity="passed")
    found = cells(report(one), one, "tensorrt-fp32")
    assert {name: text for name, text in found.items() if text != "-"} == {"backend": "tensorrt-fp32"}
    assert tuple(found) == COLUMNS


def test_the_terminal_shows_figures_reasons_and_cautions(row, report, capsys):
    """The table, the sentences and the cautions all reach stdout; brackets in names are text."""
    unstable = row(run_ms=np.linspace(10, 30, 50), model="[red]m", folder="x")
    print_report(report(row("eager"), row(), unstable, row("tensorrt", reason="[bold]no GPU")))
    out = capsys.readouterr().out
    for text in ("[red]m/onnx-fp32", "1.00x", "[bold]no GPU", "not run", "may be unstable", "mIoU is on all 4 images"):
        assert text in out


def test_a_loss_of_miou_is_said(row, report):
    """A backend that scores lower than eager is named with the points that it loses."""
    said = " ".join(headline(report(row("eager"), row(miou=49.0))))
    assert "eager 50.00, onnx-fp32 49.00" in said
    assert "onnx-fp32 loses 1.00 points" in said


def test_an_unproven_fastest_backend_is_said(row, report):
    """Without a verdict the headline asks for one."""
    assert "segdeploy verify" in " ".join(headline(report(row("eager", run_ms=(20.0,) * 9), row(parity="not verified"))))


def test_a_run_that_was_cut_short_is_said(row, report):
    """Fewer values than were asked for are explained by the time limit."""
    said = " ".join(notes(report(row(), settings=BenchSettings(threads=2, iterations=50, max_time_s=3))))
    assert "50 calls were asked for; --max-time 3 s" in said
