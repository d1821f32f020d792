import re
from pathlib import Path

import numpy as np
import pytest

from segdeploy.base.errors import InputError
from segdeploy.scores.confusion_plot import check_confusion_path, draw_confusion

pytest.importorskip("matplotlib")


def texts(path):
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())


def test_rows_are_per_cent_of_their_label(tmp_path):
    """Numbers are shares of the row; what rounds to none is left out; a label without pixels has a dash."""
    path = tmp_path / "new" / "c.svg"
    draw_confusion(path, [[75, 25, 0], [0, 0, 0], [1, 0, 999]], ["road", "never", "car"], title="a title")
    found = texts(path)
    numbers = [text for text in found if re.fullmatch(r"\d+|-", text)]
    assert numbers == ["75", "25", "-", "100"]
    assert {"road", "never", "car", "a title", "predicted as", "labelled", "50 %"} <= set(found)


@pytest.mark.parametrize(("count", "numbers"), [(2, True), (21, True), (150, False)])
def test_numbers_where_they_fit(tmp_path, count, numbers):
    """Every class is named at every size; a matrix of 150 classes would be unreadable with numbers."""
    names = [f"class{i}" for i in range(count)]
    draw_confusion(tmp_path / "c.svg", (np.eye(count, dtype=int) * 50).tolist(), names, title="t")
    found = texts(tmp_path / "c.svg")
    assert all(found.count(name) == 2 for name in names)
    assert ("100" in found) == numbers


def test_png_of_a_sensible_size(tmp_path):
    """It grows with the classes, and stays below what a viewer opens with ease."""
    from PIL import Image

    sizes = []
    for count in (2, 21, 150):
        path = tmp_path / f"{count}.png"
        draw_confusion(path, np.eye(count, dtype=int).tolist(), [f"c{i}" for i in range(count)], title="t")
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            sizes.append(max(picture.size))
    assert 300 < sizes[0] < 700
    assert 1000 < sizes[1] < 1800
    assert sizes[1] < sizes[2] < 4000


def test_cells_lie_where_they_belong(tmp_path):
    """Labels run down, predictions across: the one dark cell off the diagonal is label 0 predicted as 1."""
    from PIL import Image

    draw_confusion(tmp_path / "c.png", [[0, 9], [0, 0]], ["a", "b"], title="t")
    with Image.open(tmp_path / "c.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    dark = np.argwhere((pixels == (8, 48, 107)).all(2))  # the end of matplotlib's colour map Blues
    grey = np.argwhere((pixels == (232, 232, 232)).all(2))  # the row of the label without pixels
    assert len(dark) > 1000
    assert len(grey) > 1000
    cell = dark[dark[:, 1] < grey[:, 1].max() + 5]  # not the colour bar's end
    assert cell[:, 0].mean() < grey[:, 0].mean()
    assert cell[:, 1].mean() > grey[:, 1].mean()


def test_a_class_may_be_called_anything(tmp_path):
    """Dollars, tags and very long names are text."""
    names = ["$x^2$", "<b>&", "a very very long name of a class"]
    draw_confusion(tmp_path / "c.svg", np.eye(3, dtype=int).tolist(), names, title="$t$ <i>")
    found = texts(tmp_path / "c.svg")
    assert {"$x^2$", "&lt;b&gt;&amp;", "$t$ &lt;i&gt;"} <= set(found)
    assert any(text.startswith("a very very") and text.endswith("…") for text in found)


def test_the_same_file_every_time(tmp_path):
    """No date and no random identifiers: a picture under version control changes only with its figures."""
    for name in ("a.svg", "b.svg"):
        draw_confusion(tmp_path / name, [[1, 2], [3, 4]], ["a", "b"], title="t")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize("name", ["c.pdf", "c", "svg"])
def test_other_formats(tmp_path, name):
    """Said before anything is drawn, and nothing is written."""
    with pytest.raises(InputError, match=r"\.svg or \.png"):
        check_confusion_path(Path(name))
    with pytest.raises(InputError):
        draw_confusion(tmp_path / name, [[1, 2], [3, 4]], ["a", "b"], title="t")
    assert not list(tmp_path.iterdir())
