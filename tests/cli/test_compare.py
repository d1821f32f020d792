import json
from pathlib import Path

import pytest

from segdeploy.bench.result import encode_report

OLD = """
+-------+-------+-------+
| Class |  IoU  |  Acc  |
+-------+-------+-------+
|  road | 90.25 | 95.50 |
|  bike | 64.00 | 80.00 |
|  pole | 30.00 | 50.00 |
+-------+-------+-------+
"""
NEW = """
+-------+-------+-------+
| Class |  IoU  |  Acc  |
+-------+-------+-------+
|  pole | 45.00 | 60.00 |
|  road | 92.25 | 97.00 |
|  bike | 43.00 | 89.00 |
+-------+-------+-------+
Iter(val) [5/5]    aAcc: 93.1000  mIoU: 60.0800  mAcc: 82.0000  data_time: 0.1  time: 0.2
"""


@pytest.fixture
def logs(tmp_path):
    """Two logs in the current folder."""

    def write(old=OLD, new=NEW):
        (tmp_path / "old.log").write_text(old)
        (tmp_path / "new.txt").write_text(new)
        return "old.log", "new.txt"

    return write


def rows(out):
    """The table's cells."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line.startswith("│")]


def test_two_logs(main, logs):
    """Classes by gain, the means as far as they are known, and what follows; the file holds both sides."""
    ended = main("compare", *logs(), "--json", "c.json")
    assert ended.status == 0, ended.err
    table = rows(ended.out)
    assert [line[0] for line in table[:3]] == ["pole", "road", "bike"]
    assert table[2][1:7] == ["64.00", "43.00", "-21.00", "80.00", "89.00", "+9.00"]
    assert table[3][:4] == ["mean (mIoU, mAcc)", "61.42", "60.08", "-1.34"]
    assert table[4][4:7] == ["-", "93.10", "-"]
    assert "mIoU falls by 1.34 points: 61.42 to 60.08." in ended.out
    assert "bike: more pixels are wrongly taken for it, not more of it missed" in ended.out
    assert "'old.log' states no means: they are computed from its table" in ended.out
    assert "'new.txt' states" not in ended.out
    figures = json.loads(Path("c.json").read_text())
    assert (figures["schema"], figures["kind"]) == (1, "evaluations")
    assert [one["name"] for one in figures["changes"]] == ["pole", "road", "bike"]
    assert figures["changes"][2]["new"]["acc"] == 89.0


def test_a_training_log(main, logs):
    """Of several validations the last is taken, and that is said."""
    ended = main("compare", *logs(new=OLD + "loss: 0.5\n" + NEW))
    assert "'new.txt' holds 2 tables of classes: the last one is taken." in ended.out
    assert "60.08" in ended.out


def test_two_evaluations(main, onnx_artifact, labelled_root):
    """The files of `eval`, at one scale and at another: the figures that it printed, and that the methods differ."""
    for name, scale in (("a.json", "1.0"), ("b.json", "1.2")):
        assert main("eval", onnx_artifact.folder, "--data", labelled_root, "--scales", scale, "--json", name).status == 0
    ended = main("compare", "a.json", "b.json")
    assert ended.status == 0, ended.err
    old, new = (json.loads(Path(name).read_text()) for name in ("a.json", "b.json"))
    assert f"{old['miou']:.2f} to {new['miou']:.2f}" in ended.out
    assert f"{old['aacc']:.2f}" in ended.out
    assert "caution: the methods differ: on whole images, at scales 1, and on whole images, at scales 1.2" in ended.out
    assert main("compare", "a.json", "b.json", "--max-drop", "99").status == 4
    assert main("compare", "a.json", "a.json", "--max-drop", "0", "--max-class-drop", "0").status == 0


def test_an_evaluation_and_a_log(main, logs, onnx_artifact, labelled_root):
    """They are of one kind; classes that only one has are listed."""
    main("eval", onnx_artifact.folder, "--data", labelled_root, "--limit", "1", "--json", "a.json")
    ended = main("compare", logs()[0], "a.json")
    assert ended.status == 0, ended.err
    assert "Only in 'old.log': road, bike, pole." in ended.out
    assert "Only in 'a.json': background, red, green, blue, white." in ended.out
    assert "road (old only)" in ended.out


def test_gates(main, one_line, logs):
    """Exit 3 with what fell and by how much; the table and the file are there all the same."""
    both = logs()
    assert main("compare", *both, "--max-drop", "1.4", "--max-class-drop", "21").status == 0
    ended = main("compare", *both, "--max-drop", "1", "--json", "c.json")
    one_line(ended, "mIoU to fall by at most 1 points", "61.42 to 60.08", status=3)
    assert rows(ended.out)
    assert Path("c.json").is_file()
    one_line(main("compare", *both, "--max-class-drop", "5"), "IoU of 'bike'", "64.00 to 43.00", status=3)
    one_line(main("compare", *logs(new=NEW.replace("bike", "bicycle")), "--max-drop", "9"), "no IoU of bike", status=4)


def test_two_benchmarks(main, one_line, row, report):
    """Told by their content; a difference within the noise is called that; gates have their exit status."""
    for name, latency, miou in (("a.json", 10.0, 50.0), ("b.json", 10.0, 49.0), ("c.json", 15.0, 50.0)):
        values = tuple(latency * (1 + 0.01 * (index // 10 % 3)) for index in range(100))
        Path(name).write_bytes(encode_report(report(row(run_ms=values, miou=miou))))
    ended = main("compare", "a.json", "b.json", "--json", "out.json", "--max-drop", "1")
    assert ended.status == 0, ended.err
    assert "within the noise" in ended.out
    assert "-1.00" in ended.out
    assert json.loads(Path("out.json").read_text())["kind"] == "benchmarks"
    slower = main("compare", "a.json", "c.json", "--max-slowdown", "10")
    one_line(slower, "at most 10 % slower", status=3)
    assert "onnx-fp32 at 1 x 32x48 is slower by 50.0 %" in slower.out
    one_line(main("compare", "a.json", "b.json", "--max-drop", "0.5"), "mIoU of onnx-fp32", status=3)
    one_line(main("compare", "a.json", "b.json", "--max-class-drop", "1"), "a gate for two benchmarks")


def test_bad_inputs(main, one_line, logs, row, report):
    """No file, two kinds, no table, a gate of the other kind: one line each, nothing written."""
    old, new = logs()
    Path("bench.json").write_bytes(encode_report(report(row())))
    Path("empty").touch()
    Path("other.json").write_text('{"mIoU": 60.0}')
    one_line(main("compare", old, "none"), "a file at 'none'", "no such file")
    one_line(main("compare", old, "bench.json"), "'old.log', an evaluation, and 'bench.json', a benchmark run")
    one_line(main("compare", old, "empty"), "scores in 'empty'")
    one_line(main("compare", "other.json", old), "another JSON file")
    one_line(main("compare", old, new, "--max-slowdown", "5"), "a gate for two evaluations", "--max-slowdown")
    assert main("compare", old, new, "--max-drop", "-1").status == 2
    assert main("compare", old).status == 2
    assert not Path("c.json").exists()


def test_a_class_may_be_called_anything(main, logs):
    """Brackets are no markup, and a bar in a name is no column."""
    ended = main("compare", *logs(old=OLD.replace("bike", "[red]b|c"), new=NEW.replace("bike", "[red]b|c")))
    assert "│ [red]b|c " in ended.out
    assert "-21.00" in ended.out


def test_a_log_without_a_terminal_is_not_cut(main, logs):
    """Where the output is a pipe, every column of the table has its room."""
    table = rows(main("compare", *logs()).out)
    assert all(len(line) == 10 for line in table)
