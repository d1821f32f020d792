import pytest

from segdeploy.base.errors import InputError
from segdeploy.bench.growth import Curve, GrowthReport, Point
from segdeploy.bench.growth_text import draw_growth, growth_rows, growth_sentences


@pytest.fixture
def growth(report):
    def make(*curves):
        return GrowthReport(1, "2025-01-01T00:00:00+00:00", "cmd", report().environment, 2, "cpu", curves)

    return make


def tiles(peak):
    return Curve("tiles", "m", (Point(1024**2, "1024x1024", (100.0,), 10**9), Point(4096**2, "4096x4096", (1600.0,), peak)))


def test_rows_hold_figures_or_the_reason():
    """Medians, and what they are to the first; a size that was not run has dashes."""
    points = (Point(1, "1", (3.0, 2.0, 4.0), 50_000_000), Point(2, "2", (6.0,)), Point(3, "3", reason="too large"))
    assert growth_rows(Curve("batch", "m", points)) == [
        ["1", "3.00", "3", "1.00x", "50"],
        ["2", "6.00", "1", "2.00x", "-"],
        ["3", "not run: too large", "-", "-", "-"],
    ]


@pytest.mark.parametrize(("peak", "word"), [(1_990_000_000, "below 2 GB"), (2_010_000_000, "ABOVE 2 GB")])
def test_sentences_say_the_exponent_and_the_memory(growth, peak, word):
    """The largest picture is held against the limit."""
    exponent, memory = growth_sentences(growth(tiles(peak)))
    assert exponent == "cost ~ tiles^1.00: linear or better"
    assert word in memory


def test_no_memory_is_claimed_of_a_picture_that_was_not_measured(growth):
    """A curve that ends earlier says nothing of the largest."""
    curve = Curve("tiles", "m", (Point(256**2, "a", (1.0,), 1), Point(512**2, "b", (4.0,), 1)))
    assert len(growth_sentences(growth(curve))) == 1


@pytest.mark.parametrize(("name", "head"), [("g.svg", b"<?xml"), ("g.png", b"\x89PNG")])
def test_the_plot_is_a_picture_of_its_suffix(growth, tmp_path, name, head):
    """A panel for each curve that has a line; another suffix is refused."""
    pytest.importorskip("matplotlib")
    draw_growth(growth(tiles(1), Curve("batch", "m", (Point(1, "1", (1.0,)),))), tmp_path / name)
    data = (tmp_path / name).read_bytes()
    assert data.startswith(head)
    if name.endswith("svg"):
        assert data.count(b'id="axes_') == 1
    with pytest.raises(InputError, match="ends in .svg"):
        draw_growth(growth(tiles(1)), tmp_path / "g.txt")
