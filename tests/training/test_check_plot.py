"""The picture of class frequencies, read back from the SVG."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from segdeploy.base.errors import InputError
from segdeploy.training.check import CheckReport, SplitReport
from segdeploy.training.check_plot import plot_frequencies

NAMES = ("sky", "a & b < c", "ca$h$", "never")


@pytest.fixture
def report():
    """Two splits with labels, and one without."""
    splits = (
        SplitReport("train", 1200, (900, 90, 10, 0, 77), (4, 3, 1, 0, 4)),
        SplitReport("val", 7, (50, 0, 50, 0, 0), (7, 0, 7, 0, 0)),
        SplitReport("test", 5, (0, 0, 0, 0, 0), (0, 0, 0, 0, 0)),
    )
    return CheckReport(NAMES, classes_are_guessed=False, splits=splits, findings=())


def test_texts(report, tmp_path):
    """Every class is named as it is, every split with labels is in the legend."""
    plot_frequencies(report, tmp_path / "a.svg")
    texts = [text.text for text in ET.parse(tmp_path / "a.svg").iter("{http://www.w3.org/2000/svg}text")]
    assert [text for text in texts if text in NAMES] == list(NAMES)
    assert "train, 1,200 images" in texts
    assert "val, 7 images" in texts
    assert not any("test" in text for text in texts)


def test_marks(report, tmp_path):
    """Where the marks lie: shares of what is labelled, on a logarithmic axis; none where the class never occurs."""
    plot_frequencies(report, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    groups = re.findall(r'<g id="PathCollection_\d+">(.*?)</g>\s*</g>', text, re.DOTALL)
    places = [[float(x) for x in re.findall(r'<use [^>]*x="([\d.]+)"', group)] for group in groups[:2]]
    assert [len(found) for found in places] == [3, 2]
    (ninety, nine, one), (fifty, again) = places
    assert fifty == again
    assert nine - one == pytest.approx((ninety - nine) * 0.954243, rel=0.01)  # lg 9, of a decade
    assert ninety - fifty == pytest.approx((ninety - nine) * 0.255273, rel=0.01)  # lg 1.8


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_same_report_same_file(report, tmp_path, suffix):
    """Neither a date nor chance is in it."""
    for name in ("a", "b"):
        plot_frequencies(report, tmp_path / f"{name}.{suffix}")
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_nothing_to_show(tmp_path):
    """A data set without a label is an empty picture, not an error."""
    plot_frequencies(CheckReport(("a",), False, (SplitReport("train", 0, (0, 0), (0, 0)),), ()), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size


def test_other_format(report, tmp_path):
    """A suffix that is none of the three."""
    with pytest.raises(InputError, match=r"\.svg, \.png, \.pdf.*a\.jpg"):
        plot_frequencies(report, tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())
