"""The demo's journal, and what its report calls a problem."""

from __future__ import annotations

import pytest

from segdeploy.artifact.verdict import Parity, Tolerance
from segdeploy.base.errors import InputError
from segdeploy.demo.journal import Journal, fingerprint
from segdeploy.demo.report import DemoReport, problems
from segdeploy.demo.stages import Places, Served, Trained, claim, clear
from segdeploy.scores.confusion_matrix import Evaluation


class Stages:
    """Three stages that write a file each and note that they ran."""

    def __init__(self, folder):
        self.folder = folder
        self.ran = []

    def run(self, *, identity="a", fail_in=None):
        journal = Journal(self.folder / "state.json", identity)
        results = []
        for name in ("first", "second", "third"):
            output = self.folder / name

            def work(name=name, output=output):
                if name == fail_in:
                    raise KeyboardInterrupt
                self.ran.append(name)
                output.write_text(name)
                return len(self.ran)

            results.append(journal.run(name, int, [output], work, lambda _: None))
        return journal, results


@pytest.fixture
def stages(tmp_path):
    """Nothing done yet."""
    return Stages(tmp_path)


def test_a_second_run_takes_every_result_from_the_first(stages):
    """Nothing runs twice, and the results and times are those of the run that did it."""
    first, results = stages.run()
    second, again = stages.run()
    assert stages.ran == ["first", "second", "third"]
    assert results == again == [1, 2, 3]
    assert [one.seconds for one in first.stages] == [one.seconds for one in second.stages]
    assert second.continues
    assert not first.continues


def test_an_interrupted_run_goes_on_where_it_stopped(stages):
    """What was finished before the interrupt is not done again."""
    with pytest.raises(KeyboardInterrupt):
        stages.run(fail_in="third")
    stages.run()
    assert stages.ran == ["first", "second", "third"]


def test_a_stage_done_again_makes_the_later_ones_run_too(stages):
    """The third was made from the second's output, so it is not kept when that is gone."""
    stages.run()
    (stages.folder / "second").unlink()
    stages.run()
    assert stages.ran == ["first", "second", "third", "second", "third"]


def test_results_of_other_inputs_are_not_taken_up(stages):
    """Another identity, or a state file that is damaged, counts as no earlier run."""
    stages.run(identity="a")
    stages.run(identity="b")
    (stages.folder / "state.json").write_text("{")
    stages.run(identity="b")
    assert len(stages.ran) == 9


def test_fingerprint_changes_with_every_input():
    """No two of these are the same."""
    assert len({fingerprint(one) for one in (["1", 2], ["1", 3], ["2", 2], ["1", 2, ""], [])}) == 5


def test_a_folder_of_the_users_is_no_place_for_the_demo(tmp_path):
    """Whatever the folders in it are called, nothing is removed or written."""
    for name in ("data", "work_dirs/upernet_r18_synthetic", "exports", "model_store", "predictions"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "mine").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for take in (claim, clear):
        with pytest.raises(InputError, match="would be overwritten"):
            take(Places(tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


def test_clear_removes_only_what_the_demo_would_take_up(tmp_path):
    """In the demo's own folder a user's files survive, beside and between those of the demo."""
    places = Places(tmp_path / "demo")
    claim(places)
    for folder in (places.work_dir, places.work_dir.parent / "mine", places.artifact("onnx"), places.store):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    (places.root / "state.json").write_text("")
    (places.root / "notes.txt").write_text("mine")
    clear(places)
    assert not (places.root / "state.json").exists()
    assert not places.work_dir.exists()
    for path in (places.root / "notes.txt", places.work_dir.parent / "mine" / "file", places.store / "file"):
        assert path.exists()


def report(miou=85.0, verdict="passed", identical=12):
    tolerance = Tolerance(logits_max_abs=1e-4, mask_agreement=1.0, miou_points=0.1)
    parity = Parity(reference="r", inputs="i", device="cpu", tolerance=tolerance, shapes=(), verdict=verdict)
    evaluation = Evaluation(miou=miou, macc=miou, aacc=miou, classes=(), images=40)
    served = Served("upernet.mar", 12, identical, 12 - identical)
    return DemoReport(1, (), Trained("x.pth", evaluation), {"onnx": parity}, None, served)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"miou": 69.99}, "val mIoU 69.99"),
        ({"verdict": "failed"}, "onnx differs from the checkpoint"),
        ({"identical": 11}, "1 served masks differ"),
    ],
)
def test_every_broken_promise_is_a_problem(changes, told):
    """Too low an mIoU, a failed parity and a differing mask each end the demo with exit 3."""
    assert [one for one in problems(report(**changes)) if told in one]


def test_what_could_not_run_here_is_no_problem():
    """A skipped engine is said in the report and does not fail the demo."""
    assert problems(report(verdict="skipped")) == []
