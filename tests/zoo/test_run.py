"""Which configs are tried, and what is kept of an earlier run. The configs' own processes are stood in for."""

import json

import pytest

from segdeploy.base.errors import ConfigError, InputError
from segdeploy.models.configs import config_families, find_config
from segdeploy.zoo import run as zoo
from segdeploy.zoo.process import Limits
from segdeploy.zoo.result import Entry, read_report
from segdeploy.zoo.run import CHOSEN, choose_configs, run_zoo

LIMITS = Limits(timeout_s=60, memory_bytes=1 << 30)


@pytest.fixture
def tried(monkeypatch):
    """The families whose process was started, in order."""
    names = []

    def run_one(family, config, formats, limits):
        names.append(family)
        return Entry(family=family, config=config, outcome="exported", seconds=float(len(names)))

    monkeypatch.setattr(zoo, "run_one", run_one)
    return names


def run(out, configs, formats=("onnx",), again=False):
    return run_zoo({name: f"mmseg::{name}/x" for name in configs}, formats, out, LIMITS, again=again, command="segdeploy zoo")


def test_one_config_of_every_family():
    """All that mmseg ships, each by a config that is there."""
    found = choose_configs([])
    assert sorted(found) == sorted(config_families())
    assert len(found) >= 50
    for config in found.values():
        find_config(config)


def test_the_chosen_ones_are_shipped():
    """A chosen name that mmseg does not ship would be replaced by another without a word."""
    shipped = config_families()
    assert {family: name for family, name in CHOSEN.items() if name not in shipped.get(family, ())} == {}


def test_by_name():
    """A family, a config of mmseg, a file."""
    name = "mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024"
    assert choose_configs(["pspnet", name]) == {
        "pspnet": f"mmseg::pspnet/{CHOSEN['pspnet']}",
        "fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024": name,
    }


@pytest.mark.parametrize(
    ("name", "error"), [("pspnett", InputError), ("mmseg::pspnet/no", ConfigError), ("no.py", ConfigError)]
)
def test_unknown(name, error):
    """Said before anything runs."""
    with pytest.raises(error) as raised:
        choose_configs([name])
    assert name in raised.value.got


def test_a_run_goes_on(tried, tmp_path):
    """Interrupted after two of three, the same command tries the third alone; again=True tries all."""
    out = tmp_path / "zoo.json"
    run(out, ["a", "b"])
    report = run(out, ["a", "b", "c"])
    assert tried == ["a", "b", "c"]
    assert [(entry.family, entry.seconds) for entry in report.entries] == [("a", 1.0), ("b", 2.0), ("c", 3.0)]
    assert read_report(out) == report
    run(out, ["b"], again=True)
    assert tried == ["a", "b", "c", "b"]
    assert [entry.seconds for entry in read_report(out).entries] == [1.0, 4.0, 3.0]


def test_written_after_each(tmp_path, monkeypatch):
    """What was found before an interruption is on disk."""
    out = tmp_path / "zoo.json"

    def run_one(family, config, formats, limits):
        if family == "b":
            raise KeyboardInterrupt
        return Entry(family=family, config=config, outcome="exported")

    monkeypatch.setattr(zoo, "run_one", run_one)
    with pytest.raises(KeyboardInterrupt):
        run(out, ["a", "b"])
    assert [entry.family for entry in read_report(out).entries] == ["a"]


def test_two_runs_with_one_report(tmp_path, monkeypatch):
    """Neither loses what the other has found meanwhile."""
    out = tmp_path / "zoo.json"

    def run_one(family, config, formats, limits):
        if family == "a":
            run(out, ["other"])
        return Entry(family=family, config=config, outcome="exported")

    monkeypatch.setattr(zoo, "run_one", run_one)
    run(out, ["a", "b"])
    assert [entry.family for entry in read_report(out).entries] == ["a", "b", "other"]


@pytest.mark.parametrize("change", ["packages", "formats", "config"])
def test_what_is_not_kept(tried, tmp_path, monkeypatch, change):
    """Entries of other versions, other formats or another config say nothing about these."""
    out = tmp_path / "zoo.json"
    run(out, ["a"])
    if change == "packages":
        report = json.loads(out.read_text())
        report["packages"]["torch"] = "1.0"
        out.write_text(json.dumps(report))
    elif change == "config":
        out.write_text(out.read_text().replace("mmseg::a/x", "mmseg::a/y"))
    run(out, ["a"], formats=("onnx", "torchscript") if change == "formats" else ("onnx",))
    assert tried == ["a", "a"]


@pytest.mark.parametrize("content", ["", "{", '{"schema": 1}', "[]"])
def test_a_file_that_is_no_report(tried, tmp_path, content):
    """It is not overwritten."""
    out = tmp_path / "zoo.json"
    out.write_text(content)
    with pytest.raises(InputError, match="a report of segdeploy zoo"):
        run(out, ["a"])
    assert out.read_text() == content
    assert tried == []
