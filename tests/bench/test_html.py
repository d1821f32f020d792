import re
from html.parser import HTMLParser

import msgspec
import numpy as np
import pytest

from segdeploy.bench.html import Section, render_html
from segdeploy.bench.pictures import Picture
from segdeploy.scores.confusion_matrix import ClassScore, Evaluation

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


class Page(HTMLParser):
    """The links, the tags and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.tags, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data", "action")]

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def mixed(row, report):
    """The reference, a faster backend, and one that was not run."""
    return report(
        row("eager", run_ms=np.linspace(20, 21, 120)),
        row(run_ms=np.linspace(5, 5.1, 120)),
        row("tensorrt", reason="expected an NVIDIA GPU; got none; use another backend"),
    )


def test_the_page_needs_nothing_else(mixed):
    """Everything that the page loads is inside it: no link leaves it, no script, no style sheet, no font from elsewhere."""
    picture = Picture("photo", (("photograph", np.zeros((10, 20, 3), np.uint8)),))
    text = render_html(mixed, pictures=[picture])
    page = Page(text)
    assert page.links
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed"}
    assert not re.search(r"url\((?!['\"]?#)|@import|@font-face", text)
    assert len([1 for tag, _ in page.tags if tag == "svg"]) == 2


def test_names_are_escaped(row, report):
    """Names from data sets, folders and commands are text, wherever they appear, plots included."""
    evil = "<script>alert('x')</script>&$"
    score = Evaluation(miou=1.0, macc=1.0, aacc=1.0, classes=(ClassScore(evil, 1.0, 1.0, 5),), images=1)
    one = report(row(model=evil, folder=evil, evaluation=score), row(model="b", folder="b"), row("tensorrt", reason=evil))
    one = msgspec.structs.replace(one, command=evil)
    section = Section(evil, (evil,), (evil,), ((evil,),))
    picture = Picture(evil, ((evil, np.zeros((4, 4, 3), np.uint8)),))
    page = Page(render_html(one, title=evil, sections=[section], pictures=[picture]))
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(evil) >= 8


def test_a_row_that_was_not_run_shows_its_reason_and_no_figure(mixed):
    """Its line in the table is the backend and the reason; nothing of it is coloured as passed."""
    text = render_html(mixed)
    line = next(part for part in text.split("<tr>") if "tensorrt-fp32</th>" in part).split("</tr>")[0]
    assert "expected an NVIDIA GPU; got none" in line
    assert 'class="reason"' in line
    assert "passed" not in line
    assert not re.search(r"\d", re.sub(r'colspan="\d+"|tensorrt-fp32', "", line))
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        assert "tensorrt" not in svg


def test_the_headline_says_what_matters(mixed):
    """The fastest backend, by how much, the mIoU, and what was not run stand at the head."""
    head = Page(render_html(mixed).split("</header>")[0]).text
    assert "onnx-fp32 is the fastest: 5.05 ms for one image of 32x48, 4.1 times as fast as eager PyTorch." in head
    assert "mIoU 50.00" in head
    assert "tensorrt-fp32 at 1 x 32x48 was not run: expected an NVIDIA GPU" in head


def test_a_fastest_backend_that_failed_parity_is_called_out(row, report):
    """Speed is not praised without saying that the model is another one."""
    text = Page(render_html(report(row("eager", run_ms=(20.0,) * 20), row(parity="failed")))).text
    assert "onnx-fp32 failed parity" in text
    assert "Do not deploy it" in text


def test_nothing_measured_is_a_page_too(row, report):
    """A report of reasons alone has no plots, and renders."""
    text = render_html(report(row("tensorrt", reason="no GPU", shape=None), row("eager", reason="no torch")))
    assert "<svg" not in text
    assert "no torch" in text


def test_sections_are_tables_with_coloured_verdicts(mixed):
    """A caller's table appears as it is; only the words of a verdict are coloured."""
    section = Section("Verification", ("All held.",), ("artifact", "verdict"), (("onnx", "passed"), ("other", "not passed")))
    text = render_html(mixed, sections=[section])
    assert '<td class="passed">passed</td>' in text
    assert "<td>not passed</td>" in text
    assert text.index("Verification") < text.index("Backends at")


def test_plots_take_their_colours_from_the_page(mixed):
    """No fixed colour is left in a plot, so that it follows the dark scheme."""
    for svg in re.findall(r"<svg.*?</svg>", render_html(mixed), re.DOTALL):
        assert not re.findall(r"#[0-9a-f]{6}\b", svg)
        assert "var(--ink)" in svg
