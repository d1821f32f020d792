from __future__ import annotations

import errno
import json
import math
import re
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdeploy.base.errors import InputError, MissingExtraError
from segdeploy.training import curve_plots
from segdeploy.training.curve_plots import draw_curves, smooth
from segdeploy.training.curves import choose_keys, newest_run, read_run, read_runs, summarise
from segdeploy.training.train import Settings, train

LENGTH = 5  # iterations an epoch of the logs made here


def by_epoch(first, last, *, scale=1.0):
    """Lines as MMEngine writes them where it counts epochs: every second iteration of each, and a validation."""
    lines = []
    for epoch in range(first, last + 1):
        for inner in (2, 4):
            at = (epoch - 1) * LENGTH + inner
            lines.append({"lr": 0.1 / at, "loss": scale * 10 / at, "time": 0.5, "epoch": epoch, "iter": at, "step": at})
        lines.append({"aAcc": 50.0, "mIoU": scale * 10.0 * epoch, "time": 9.0, "step": epoch})
    return lines


def by_iteration(last, every):
    """The same where it counts iterations: no epochs, and the step of a validation is an iteration."""
    lines = []
    for at in range(2, last + 1, 2):
        lines.append({"base_lr": 0.1, "lr": 0.1, "loss": 10 / at, "iter": at, "step": at})
        if at % every == 0:
            lines.append({"mIoU": float(at), "step": at})
    return lines


@pytest.fixture
def write(tmp_path):
    """Writes a log into a run's folder; lines that are text are written as they are."""

    def to(run, lines, start="20260101_000000", name="scalars.json"):
        folder = tmp_path / run / start / "vis_data"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
        return tmp_path / run

    return to


def points(curve):
    assert (np.diff(curve.iterations) > 0).all()
    return dict(zip(curve.iterations.tolist(), curve.values.tolist(), strict=True))


def test_counted_by_epoch(write):
    """Losses stand at their iteration, the mIoU of epoch e after e epochs, and the time is the training's."""
    run = read_run(write("a", by_epoch(1, 3)))
    assert run.name == "a"
    assert run.epoch_length == LENGTH
    assert points(run.curves["loss"]) == {at: 10 / at for at in (2, 4, 7, 9, 12, 14)}
    assert points(run.curves["mIoU"]) == {5: 10.0, 10: 20.0, 15: 30.0}
    assert set(run.curves["time"].values) == {0.5}
    assert (run.curves["mIoU"].validation, run.curves["loss"].validation) == (True, False)


def test_counted_by_iteration(write):
    """Without epochs the step of a validation is an iteration."""
    run = read_run(write("a", by_iteration(40, 20)))
    assert run.epoch_length is None
    assert points(run.curves["mIoU"]) == {20: 20.0, 40: 40.0}


def test_epochs_with_validation_by_iteration(write):
    """A logger may count epochs in training and iterations in validation."""
    lines = [line | {"step": 5 * line["step"]} if "mIoU" in line else line for line in by_epoch(1, 3)]
    assert points(read_run(write("a", lines)).curves["mIoU"]) == {5: 10.0, 10: 20.0, 15: 30.0}


def test_one_epoch(write):
    """Within the first epoch its length is what was seen of it."""
    run = read_run(write("a", by_epoch(1, 1)))
    assert run.epoch_length == 4
    assert points(run.curves["mIoU"]) == {4: 10.0}


def test_real_log(synthetic, tmp_path, tiny):
    """What MMEngine logged in a resumed training: the scalars of both parts, and the best mIoU is the best checkpoint's."""
    place = tmp_path / "run"
    train("upernet_r18_synthetic", Settings(work_dir=place, data_root=synthetic, options=tiny))
    longer = tiny | {"train_cfg.max_epochs": "3"}
    result = train("upernet_r18_synthetic", Settings(work_dir=place, data_root=synthetic, resume=True, options=longer))
    assert len(list(place.glob("*/vis_data/scalars.json"))) == 2
    read = read_run(place)
    lines = [
        json.loads(line) for path in sorted(place.glob("*/vis_data/scalars.json")) for line in path.read_text().splitlines()
    ]
    assert read.curves["loss"].values.tolist() == [line["loss"] for line in lines if "loss" in line]
    assert read.curves["mIoU"].values.tolist() == [line["mIoU"] for line in lines if "mIoU" in line]
    assert read.curves["mIoU"].iterations.tolist() == [2.0, 4.0, 6.0]
    assert read.epoch_length == 2
    assert summarise(read).best_miou == pytest.approx(result.miou, abs=1e-4)
    assert summarise(read).epochs == 3


def test_resumed(write):
    """Logs of one run are joined in the order of their starts; where steps overlap the later ones hold."""
    write("a", by_epoch(1, 3), start="20260101_000000")
    run = read_run(write("a", by_epoch(3, 4, scale=2.0), start="20260102_000000"))
    assert points(run.curves["loss"]) == {2: 5.0, 4: 2.5, 7: 10 / 7, 9: 10 / 9} | {at: 20 / at for at in (12, 14, 17, 19)}
    assert points(run.curves["mIoU"]) == {5: 10.0, 10: 20.0, 15: 60.0, 20: 80.0}
    assert run.epoch_length == LENGTH


def test_resumed_and_stopped_within_an_epoch(write):
    """The length of an epoch is that of the whole run, however little the last log has."""
    write("a", by_epoch(1, 3), start="20260101_000000")
    run = read_run(write("a", by_epoch(4, 4)[:1], start="20260102_000000"))
    assert run.epoch_length == LENGTH


def test_a_short_restart_hides_little(write):
    """A restart that was stopped at once replaces what it logged again, not the whole run."""
    write("a", by_epoch(1, 6), start="20260101_000000")
    run = read_run(write("a", by_epoch(1, 1, scale=3.0), start="20260102_000000"))
    assert run.curves["mIoU"].values.tolist()[1:] == [20.0, 30.0, 40.0, 50.0, 60.0]
    assert points(run.curves["loss"])[2] == 15.0


def test_damaged_lines(write):
    """A line that a kill cut in half is left out and told; so is the rest of one, a foreign one and one with nonsense steps."""
    lines = by_epoch(1, 2)
    bad = [
        '{"lr": 0.1, "loss": 0.7, "ep',
        "17",
        '"iter": 3}',
        "[1, 2]",
        '{"loss": 1.0}',
        '{"loss": 1, "step": "x"}',
        '{"step": NaN}',
    ]
    run = read_run(write("a", [*lines[:2], *bad[:3], *lines[2:], "", *bad[3:]]))
    assert run.damaged == len(bad)
    assert points(run.curves["loss"]) == points(read_run(write("b", lines)).curves["loss"])
    _, notes = choose_keys([run], ())
    assert notes == ["a: 7 lines of its logs are damaged and left out"]


def test_validation_alone(write):
    """A validation outside a training logs step 0 and is no point of a curve."""
    run = read_run(write("a", [*by_epoch(1, 2), {"mIoU": 99.0, "step": 0}]))
    assert summarise(run).best_miou == 20.0


def test_which_files(write, tmp_path):
    """The work dir, a time stamped folder in it or its vis_data; without scalars.json the file named after the start."""
    place = write("a", by_epoch(1, 2), name="20260101_000000.json")
    for folder in (place, place / "20260101_000000", place / "20260101_000000" / "vis_data"):
        assert len(read_run(folder).curves["loss"].values) == 4
    write("a", by_epoch(1, 3))
    assert len(read_run(place).curves["loss"].values) == 6


def test_no_logs(write, tmp_path):
    """No folder, no logs, only damaged ones, and a folder of runs: one line each, the last with the runs' names."""
    with pytest.raises(InputError, match="no such folder"):
        read_run(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="name the work dir"):
        read_run(tmp_path / "empty")
    with pytest.raises(InputError, match="and 1 damaged"):
        read_run(write("cut", ['{"lr": 0.1, "lo']))
    with pytest.raises(InputError, match="name a run in it: cut"):
        read_run(tmp_path)


def test_newest_run(write, tmp_path):
    """The work dir that was logged to last."""
    with pytest.raises(InputError, match="segdeploy train"):
        newest_run(tmp_path)
    import os

    for age, name in enumerate(("new", "old")):
        place = write(name, by_epoch(1, 1))
        os.utime(next(place.glob("*/vis_data/*.json")), (1e9 - age, 1e9 - age))
    assert newest_run(tmp_path) == tmp_path / "new"


def test_names(write, tmp_path):
    """Runs are called by their folder; by their paths where two have one name."""
    first, second, third = (write(name, by_epoch(1, 1)) for name in ("x/a", "y/a", "b"))
    assert [run.name for run in read_runs([first, third])] == ["a", "b"]
    assert [run.name for run in read_runs([first, second])] == [str(first), str(second)]


def test_keys(write):
    """By default what there is of loss, lr and mIoU; what no run has is refused, what one lacks is told."""
    full, bare = (read_run(write(name, lines)) for name, lines in (("full", by_epoch(1, 2)), ("bare", by_epoch(1, 2)[:2])))
    assert choose_keys([full], ()) == (["loss", "lr", "mIoU"], [])
    assert choose_keys([full, bare], ()) == (["loss", "lr", "mIoU"], ["bare: no mIoU was logged"])
    assert choose_keys([bare], ()) == (["loss", "lr"], ["bare: no mIoU was logged"])
    assert choose_keys([full, bare], ("aAcc", "aAcc")) == (["aAcc"], ["bare: no aAcc was logged"])
    with pytest.raises(InputError, match=r"got 'mIou'; did you mean mIoU"):
        choose_keys([full], ("mIou",))
    with pytest.raises(InputError, match="choose out of loss, lr, time"):
        choose_keys([bare], ("QQQ",))


def test_summary(write):
    """A run in figures, counted in epochs or in iterations; what is not finite is no best."""
    lines = by_epoch(1, 4)
    lines[5]["mIoU"], lines[8]["mIoU"] = 70.0, math.nan
    one = summarise(read_run(write("a", lines)))
    assert (one.iterations, one.epochs, one.best_miou, one.best_at) == (20, 4.0, 70.0, 2.0)
    assert one.last_loss == 10 / 19
    two = summarise(read_run(write("b", by_iteration(40, 20))))
    assert (two.iterations, two.epochs, two.best_miou, two.best_at) == (40, None, 40.0, 40.0)
    three = summarise(read_run(write("c", by_iteration(4, 20))))
    assert (three.best_miou, three.best_at) == (None, None)


def test_smooth():
    """The median of a window that is narrower near the ends; a value that is not finite does not count."""
    values = np.random.default_rng(0).normal(size=200)
    values[50], values[51] = math.nan, math.inf
    half = round(200 * 0.06 / 2)
    expected = []
    for index in range(200):
        reach = min(half, max(index, half // 2), max(199 - index, half // 2))
        window = values[max(index - reach, 0) : index + reach + 1]
        expected.append(statistics.median(v for v in window if math.isfinite(v)))
    np.testing.assert_allclose(smooth(values), expected)
    assert smooth(np.array([3.0])).tolist() == [3.0]
    assert np.isnan(smooth(np.full(5, math.nan))).all()
    spike = np.ones(100)
    spike[40] = 1000
    assert smooth(spike).max() == 1


@pytest.fixture
def panels(monkeypatch, tmp_path):
    """Draws; gives the lines of each panel by its title's first words, and the x axis's label."""

    def draw(runs, keys):
        from matplotlib.figure import Figure

        kept = []
        monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: kept.append(figure))
        draw_curves(runs, keys, tmp_path / "x.png")
        shown = [axes for axes in kept[0].axes if axes.get_visible()]
        texts = [text.get_text() for text in kept[0].legends[0].get_texts()]
        return dict(zip(keys, shown, strict=True)), texts

    return draw


def test_drawn_over_epochs(write, panels):
    """Where all runs count epochs the x axis does; the loss as logged and smoothed, the best mIoU marked and in the legend."""
    runs = read_runs([write("a", by_epoch(1, 4)), write("b", by_epoch(1, 2, scale=2.0))])
    drawn, legend = panels(runs, ["loss", "mIoU"])
    assert {axes.get_xlabel() for axes in drawn.values()} == {"epoch"}
    raw, trend, *_ = drawn["loss"].lines
    assert raw.get_xdata().tolist() == pytest.approx([at / LENGTH for at in (2, 4, 7, 9, 12, 14, 17, 19)])
    assert raw.get_ydata().tolist() == runs[0].curves["loss"].values.tolist()
    assert trend.get_ydata().tolist() == smooth(runs[0].curves["loss"].values).tolist()
    stars = [line for line in drawn["mIoU"].lines if line.get_marker() == "*"]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in stars] == [(4.0, 40.0), (2.0, 40.0)]
    assert len({line.get_color() for line in stars}) == 2
    assert [re.sub(r"\s+", " ", text) for text in legend] == [
        "a \N{BLACK STAR} best mIoU 40.00 at epoch 4",
        "b \N{BLACK STAR} best mIoU 40.00 at epoch 2",
    ]


def test_drawn_over_iterations(write, panels):
    """One run that counts iterations puts all on iterations."""
    runs = read_runs([write("a", by_epoch(1, 4)), write("b", by_iteration(40, 20))])
    drawn, legend = panels(runs, ["mIoU"])
    assert drawn["mIoU"].get_xlabel() == "iteration"
    lines = [line for line in drawn["mIoU"].lines if line.get_marker() == "o"]
    assert [line.get_xdata().tolist() for line in lines] == [[5, 10, 15, 20], [20, 40]]
    assert "at iteration 40" in legend[1]


def test_a_spike_does_not_flatten_the_rest(write, panels):
    """One huge loss leaves the panel; the axis fits the others."""
    lines = by_epoch(1, 40)
    lines[60]["loss"] = 1e6
    drawn, _ = panels([read_run(write("a", lines))], ["loss"])
    assert drawn["loss"].get_ylim()[1] < 10


def test_many_runs(write, panels):
    """More runs than colours still differ."""
    runs = [read_run(write(f"run {index}", by_epoch(1, 2))) for index in range(16)]
    drawn, _ = panels(runs, ["lr"])
    assert len({(line.get_color(), line.get_linestyle()) for line in drawn["lr"].lines}) == 16


@pytest.mark.parametrize("suffix", curve_plots.FORMATS)
def test_files(write, tmp_path, suffix):
    """Each kind of file that is offered is written whole, the same each time; a name with '$' is no formula."""
    run = read_run(write("price$a$", by_epoch(1, 4)))
    out = tmp_path / "new" / f"x{suffix}"
    draw_curves([run], ["loss", "lr", "mIoU", "aAcc"], out)
    data = out.read_bytes()
    draw_curves([run], ["loss", "lr", "mIoU", "aAcc"], out)
    assert out.read_bytes() == data
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert data.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix])
    if suffix == ".png":
        assert min(Image.open(out).size) > 800
    elif suffix == ".svg":
        text = data.decode()
        assert re.search(r"<text [^>]*>price\$a\$ [^<]*best mIoU", text)
        assert "best mIoU 40.00 at epoch 4" in text


def test_nothing_finite(write, panels):
    """A run that diverged from the start is drawn as far as there is anything: its learning rate, and no best mIoU."""
    lines = [line | {"loss": math.nan} if "loss" in line else line | {"mIoU": math.nan} for line in by_epoch(1, 2)]
    run = read_run(write("a", lines))
    drawn, legend = panels([run], ["loss", "lr", "mIoU"])
    assert np.isfinite(drawn["lr"].lines[0].get_ydata()).all()
    assert not any(np.isfinite(line.get_ydata()).any() for key in ("loss", "mIoU") for line in drawn[key].lines)
    assert legend == ["a"]


def test_bad_output(write, tmp_path, monkeypatch):
    """An unknown suffix, a folder that cannot be written and a missing matplotlib are one line."""
    run = read_run(write("a", by_epoch(1, 1)))
    with pytest.raises(InputError, match=r"ending in \.svg, \.png, \.pdf; got 'x\.bmp'"):
        draw_curves([run], ["loss"], Path("x.bmp"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can be written"):
        draw_curves([run], ["loss"], tmp_path / "file" / "x.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"segdeploy\[bench\]"):
        draw_curves([run], ["loss"], tmp_path / "x.png")


def test_a_picture_that_fails_half_way(write, tmp_path, monkeypatch):
    """The picture that was there stays as it was, and nothing lies beside it."""
    from matplotlib.figure import Figure

    run = read_run(write("a", by_epoch(1, 1)))
    out = tmp_path / "pictures" / "x.png"
    draw_curves([run], ["loss"], out)
    before = out.read_bytes()

    def half(figure, path, **named):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(InputError, match="No space left"):
        draw_curves([run], ["lr"], out)
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == {"x.png": before}
