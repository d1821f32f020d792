from pathlib import Path

import pytest

from segdeploy.zoo import run as zoo
from segdeploy.zoo.result import Entry, FormatResult


@pytest.fixture
def tried(monkeypatch):
    """Stands in for the processes: what was asked of each."""
    asked = []

    def run_one(family, config, formats, limits):
        asked.append((family, config, formats, limits.timeout_s, limits.memory_bytes))
        results = tuple(FormatResult(format=name, status="dynamic") for name in formats)
        return Entry(family=family, config=config, outcome="exported", parameters=10, formats=results)

    monkeypatch.setattr(zoo, "run_one", run_one)
    return asked


def test_zoo(main, tried):
    """Formats and limits reach the processes; a table, a report and a page come out."""
    ended = main("zoo", "fcn", "unet", "--to", "onnx, torchscript", "--timeout", 7, "--memory", 512, "--markdown", "d/zoo.md")
    assert ended.status == 0, ended.err
    assert [one[0] for one in tried] == ["fcn", "unet"]
    assert {one[2:] for one in tried} == {(("onnx", "torchscript"), 7.0, 512 << 20)}
    assert "onnx: 2 of 2 configs pass parity" in ended.out
    assert "fcn: onnx dynamic, torchscript dynamic" in ended.err
    page = Path("d/zoo.md").read_text()
    assert "segdeploy zoo fcn unet" in page
    assert "| fcn | " in page
    assert Path("zoo.json").is_file()


def test_all_families_go_on(main, tried):
    """Without names: every family, and those of an earlier run are not tried again."""
    main("zoo", "fcn")
    ended = main("zoo", "--to", "onnx,torchscript")
    assert ended.status == 0, ended.err
    names = [one[0] for one in tried]
    assert len(names) >= 50
    assert names.count("fcn") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pspnett"], ["a family of mmseg's configs", "'pspnett'", "pspnet"]),
        (["mmseg::pspnet/no"], ["mmseg::pspnet/no"]),
        (["fcn", "--to", "caffe"], ["'caffe'"]),
        (["fcn", "--to", ","], ["a format"]),
    ],
)
def test_bad_input(main, tried, one_line, arguments, words):
    """One line, before anything runs."""
    one_line(main("zoo", *arguments), *words)
    assert tried == []
    assert not Path("zoo.json").exists()


def test_a_model_with_an_op_that_is_not_there(main, one_line):
    """``segdeploy export`` of a config that needs compiled ops: one line that says so, and nothing is written."""
    from segdeploy.zoo.child import _installed

    if _installed("mmcv._ext"):
        pytest.skip("mmcv's compiled ops are installed")
    ended = main("export", "mmseg::ccnet/ccnet_r50-d8_4xb4-20k_voc12aug-512x512", "--random-weights", "--to", "onnx")
    one_line(ended, "mmcv")
    assert not Path("exports").exists()
