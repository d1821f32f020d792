"""Which pictures the verdict of an export is on."""

import shutil
from pathlib import Path

import pytest

from segdeploy.parity.verify import not_judged


@pytest.fixture
def asked(main, checkpoint_path, exported_before, monkeypatch):
    """What an export asks to be verified on, and what it says: (options) -> (inputs, what was printed as an error)."""
    from segdeploy.base.errors import InputError
    from segdeploy.parity import verify

    seen = []

    def judge(artifact, *, inputs, **_):
        seen.append(inputs)
        return not_judged(InputError(expected="a", got="b", fix="c"))

    monkeypatch.setattr(verify, "verify", judge)

    def run(*options):
        ended = main("export", checkpoint_path, "--to", "onnx", "--max-shape", "96x96", *options)
        assert ended.status == 0, ended.err
        return seen[-1], ended.err

    return run


@pytest.fixture
def two_pictures(labelled_root, tmp_path):
    """A data set of two, at another place than the config's."""
    for part in ("img_dir", "ann_dir"):
        for split, names in (("val", "01"), ("train", "234")):
            (tmp_path / "two" / part / split).mkdir(parents=True)
            for name in names:
                shutil.copy(labelled_root / part / "val" / f"{name}.png", tmp_path / "two" / part / split)
    return tmp_path / "two"


def test_the_data_set_that_was_named(asked, two_pictures):
    """Its val split; without one, the config's; pictures that were named go before both."""
    inputs, told = asked("--data", two_pictures)
    assert inputs.described == "all 2 labelled images of two, val"
    assert not inputs.noise
    assert "NOISE" not in told
    assert asked()[0].described.startswith("all 6 labelled images of ")
    assert asked("--data", two_pictures, "--images", two_pictures / "img_dir" / "train")[0].described == "3 images of train"


def test_noise_is_said_loudly(asked, monkeypatch):
    """Where the config's data lie elsewhere and nothing was named."""
    from segdeploy.base.errors import InputError
    from segdeploy.parity import inputs

    def none(*_):
        raise InputError(expected="a", got="b", fix="c")

    monkeypatch.setattr(inputs, "find_samples", none)
    found, told = asked()
    assert found.noise
    assert "VERIFIED ON SEEDED NOISE" in told
    assert Path("exports/tiny/onnx-fp32/manifest.json").is_file()


def test_the_fit_is_in_the_manifest(asked):
    """What was asked for is what predictions will do."""
    from segdeploy.artifact.folder import open_artifact

    for fit in ("pad", "resize"):
        asked("--fit", fit)
        assert open_artifact(Path("exports/tiny/onnx-fp32")).manifest.fit.mode == fit
