"""mmseg's own tools as they lie in the installed package: each starts, and the common ones do their work on small data."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from segdeploy.base.errors import (
    BackendError,
    CheckpointError,
    ConfigError,
    InputError,
    MissingExtraError,
    SegdeployError,
)
from segdeploy.models.configs import config_folder, load_config
from segdeploy.training import mmseg_tools
from segdeploy.training.mmseg_tools import OURS, find_tool, list_tools, run_tool

CONFIG = "upernet_r18_synthetic"


@pytest.fixture(scope="session")
def started():
    """How every tool answers --help: {label: (status, output, error)}. All in this process: importing mmseg takes seconds."""
    ended = {}
    for tool in list_tools():
        status, error = None, ""
        with contextlib.redirect_stdout(io.StringIO()) as out:
            try:
                run_tool(tool, ["--help"])
            except SystemExit as end:
                status = end.code
            except SegdeployError as refused:
                error = str(refused)
        ended[tool.label] = status, out.getvalue(), error
    return ended


@pytest.fixture
def mmseg(monkeypatch, tmp_path):
    """Runs a tool in a folder of its own; gives what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(name, *arguments):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            run_tool(find_tool(name), [str(one) for one in arguments])
        return out.getvalue()

    return call


@pytest.fixture
def data_options(synthetic):
    """--cfg-options that put the synthetic data into our config."""
    root = synthetic / "VOCdevkit" / "VOC2012"
    return ["--cfg-options", *(f"{loader}_dataloader.dataset.data_root={root}" for loader in ("train", "test"))]


@pytest.mark.parametrize("tool", list_tools(), ids=lambda tool: tool.label)
def test_every_tool_starts(started, tool):
    """Each tool shows its help, or one line names the package that it lacks, or our command where it is known not to work."""
    status, out, error = started[tool.label]
    if tool.label in OURS and OURS[tool.label].why:
        assert (status, out) == (None, "")
        assert error.endswith(f"; use: {OURS[tool.label].command}")
    elif status is None:
        missing = error.split("'")[1]
        assert importlib.util.find_spec(missing) is None
        assert "; got it is not installed; pip install " in error
        assert "\n" not in error
    else:
        assert status == 0
        assert out.startswith(f"usage: {tool.path.name} ")


def test_most_tools_start(started):
    """Only tools that are not run, or for which a package of their own is needed, do not start."""
    not_run = {label for label, ours in OURS.items() if ours.why}
    assert {label for label, (status, _, _) in started.items() if status is None} - not_run <= {
        "analysis_tools/analyze_logs",
        "analysis_tools/visualization_cam",
        "dataset_converters/cityscapes",
        "dataset_converters/pascal_context",
        "dataset_converters/synapse",
        "torchserve/test_torchserve",
    }


def test_the_list():
    """All programs of the package are listed, and nothing else; each has a line of its own words."""
    tools = list_tools()
    root = Path(importlib.util.find_spec("mmseg").origin).parent / ".mim" / "tools"
    programs = {path for path in root.rglob("*.py") if "__main__" in path.read_text()}
    assert {tool.path for tool in tools} == programs
    assert all(tool.summary and "\n" not in tool.summary and tool.summary != tool.name for tool in tools)
    assert OURS.keys() <= {tool.label for tool in tools}


@pytest.mark.parametrize("name", ["voc_aug", "voc_aug.py", "dataset_converters/voc_aug", "tools/dataset_converters/voc_aug.py"])
def test_names(name):
    """A tool is found by its name and as mmseg's documentation writes it."""
    assert find_tool(name).label == "dataset_converters/voc_aug"


def test_two_tools_of_one_name():
    """The one that works with our configs is meant; the other has its group's name before it."""
    assert find_tool("browse_dataset").label == "analysis_tools/browse_dataset"
    assert find_tool("misc/browse_dataset").label == "misc/browse_dataset"


def test_unknown_tool():
    """Close names are suggested, or how to list them."""
    with pytest.raises(InputError, match="did you mean voc_aug"):
        find_tool("voc_agu")
    with pytest.raises(InputError, match="segdeploy mmseg$"):
        find_tool("zzzzzz")


def test_without_mmseg(monkeypatch, tmp_path):
    """Without mmseg the extra is named; one without tools is said as well."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="train"):
        list_tools()
    spec = importlib.util.spec_from_file_location("mmseg", tmp_path / "mmseg" / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(BackendError, match=r"none"):
        list_tools()


def test_status_and_state(mmseg, monkeypatch):
    """Wrong usage keeps argparse's status 2; afterwards this process is what it was."""
    before = sys.argv, sys.modules["__main__"]
    with pytest.raises(SystemExit) as end:
        mmseg("get_flops")
    assert end.value.code == 2
    assert (sys.argv, sys.modules["__main__"]) == before


def test_our_commands_exist():
    """Each command that is named instead is one that can be typed."""
    from segdeploy.cli.main import cli

    for ours in OURS.values():
        words = ours.command.split()
        assert words[0] == "segdeploy"
        assert words[1] in cli.list_commands(None)


def test_browser_has_what_it_needs():
    """It gets a visualizer and no window where there is none; what the user says of a visualizer stands."""
    tool = find_tool("browse_dataset")
    config = str(config_folder() / f"{CONFIG}.py")
    assert mmseg_tools._arguments(tool, [CONFIG], screen=True) == [config, *mmseg_tools._BROWSER]
    own = [config, "--cfg-options", "visualizer.alpha=1"]
    assert mmseg_tools._arguments(tool, own, screen=False) == [*own, "--not-show"]
    assert mmseg_tools._arguments(find_tool("get_flops"), [config], screen=False) == [config]


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("get_flops", [CONFIG], [f"{config_folder()}/{CONFIG}.py"]),
        ("print_config", ["--graph", CONFIG + ".py"], ["--graph", f"{config_folder()}/{CONFIG}.py"]),
        ("test", [CONFIG, "x.pth", "--out", CONFIG], [f"{config_folder()}/{CONFIG}.py", "x.pth", "--out", CONFIG]),
        ("voc_aug", [CONFIG, "--", "-x"], [CONFIG, "--", "-x"]),
        ("get_flops", ["--help"], ["--help"]),
        ("get_flops", [], []),
    ],
)
def test_config_names(name, arguments, expected, tmp_path, monkeypatch):
    """The name of a config becomes its path where the tool takes a config; nothing else is touched."""
    monkeypatch.chdir(tmp_path)
    assert mmseg_tools._with_config_path(find_tool(name), arguments) == expected


def test_unknown_config(mmseg):
    """A misspelt config is one line, with what is close."""
    with pytest.raises(ConfigError, match="upernet_r18_synthetic"):
        mmseg("get_flops", "upernet_r18_syntetic")
    with pytest.raises(ConfigError, match=r"mmseg::upernet/upernet_r50"):
        mmseg("print_config", "mmseg::upernet/upernet_r50_4xb4-40k_voc12aug-512.py")


def test_bad_input(mmseg, data_options, tmp_path):
    """A missing file, an empty checkpoint and a tool that fails on current packages are one line each, with the way on."""
    with pytest.raises(InputError, match="segdeploy mmseg clip2mmseg --help$"):
        mmseg("clip2mmseg", tmp_path / "none.pth", tmp_path / "out.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match="EOFError"):
        mmseg("mit2mmseg", tmp_path / "empty.pth", tmp_path / "out.pth")
    with pytest.raises(BackendError, match=r"use: segdeploy mmseg browse_dataset"):
        mmseg("misc/browse_dataset", CONFIG, *data_options)


def test_faults_of_a_tool_keep_their_traceback(mmseg, tmp_path, monkeypatch):
    """What is no matter of its input is not dressed up as one."""
    broken = tmp_path / "broken.py"
    broken.write_text("{}['key']")
    monkeypatch.setattr(mmseg_tools, "find_tool", lambda name: mmseg_tools.Tool("", "broken", broken, "", ()))
    with pytest.raises(KeyError):
        run_tool(mmseg_tools.find_tool("broken"), [])


@pytest.mark.slow
def test_print_config(mmseg):
    """The printed config is the one that we load, with the option."""
    from mmengine.config import Config

    name = "mmseg::upernet/upernet_r50_4xb4-40k_voc12aug-512x512"
    text = mmseg("print_config", name, "--cfg-options", "train_cfg.max_iters=3").removeprefix("Config:\n")
    printed = Config.fromstring(text, ".py")
    assert printed.to_dict() == load_config(name, {"train_cfg.max_iters": "3"}).to_dict()
    assert printed.train_cfg.max_iters == 3


@pytest.mark.slow
def test_get_flops(mmseg):
    """Parameters and multiply-adds are those that torch counts."""
    import torch
    from mmengine.model import revert_sync_batchnorm
    from mmseg.registry import MODELS
    from torch.utils.flop_counter import FlopCounterMode

    out = mmseg("get_flops", CONFIG, "--shape", "64", "96")
    model = revert_sync_batchnorm(MODELS.build(load_config(CONFIG).model)).eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.zeros(1, 3, 64, 96), mode="tensor")
    shown = dict(line.split(": ") for line in out.splitlines() if line.startswith(("Flops", "Params")))
    assert shown["Params"] == f"{sum(one.numel() for one in model.parameters()) / 1e6:.3f}M"
    value, unit = float(shown["Flops"][:-1]), shown["Flops"][-1]
    assert value * {"M": 1e6, "G": 1e9}[unit] == pytest.approx(counter.get_total_flops() / 2, rel=0.02)


@pytest.mark.slow
def test_analyze_logs(mmseg, tmp_path, monkeypatch):
    """The curve that it draws is the one in the log."""
    from matplotlib import pyplot as plt

    monkeypatch.setitem(sys.modules, "seaborn", SimpleNamespace(set_style=plt.style.use))  # it draws nothing itself
    losses = {10: 2.5, 20: 1.25, 30: 0.5}
    lines = [f'{{"loss": {loss}, "lr": 0.1, "epoch": 1, "iter": {step}, "step": {step}}}' for step, loss in losses.items()]
    (tmp_path / "scalars.json").write_text("\n".join(lines))
    drawn = []
    original = plt.savefig
    monkeypatch.setattr(plt, "savefig", lambda out: (drawn.extend(plt.gca().lines[0].get_xydata().tolist()), original(out)))
    mmseg("analyze_logs", "scalars.json", "--keys", "loss", "--out", "loss.png", "--style", "ggplot")
    assert dict(drawn) == losses
    assert Image.open(tmp_path / "loss.png").size == (640, 480)
    plt.close("all")
    plt.rcdefaults()


@pytest.mark.slow
def test_browse_dataset(mmseg, data_options, synthetic, tmp_path):
    """One picture an image of the training set, half of its own colours and half those of its labels; no display is needed."""
    mmseg("browse_dataset", CONFIG, "--output-dir", tmp_path / "out", *data_options)
    voc = synthetic / "VOCdevkit/VOC2012"
    images = sorted((voc / "JPEGImages").glob("train_*.jpg"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [path.name for path in images]
    palette = np.array(load_config(CONFIG).metainfo.palette)
    for path in images:
        drawn, image = (np.array(Image.open(one)).astype(float) for one in (tmp_path / "out" / path.name, path))
        label = np.array(Image.open(voc / "SegmentationClass" / f"{path.stem}.png"))
        mixed = 0.5 * image + 0.5 * palette[np.where(label == 255, 0, label)]
        # The training pipeline flips at random. Text and void cover a part of the picture.
        off = min(np.median(np.abs(drawn - one)) for one in (mixed, mixed[:, ::-1]))
        assert off < 6


@pytest.mark.slow
def test_predictions_of_a_test(mmseg, run, data_options, synthetic, tiny, tmp_path):
    """`test --out` writes the label maps that the same checkpoint gives here."""
    from segdeploy.images.decode import read_image
    from segdeploy.runtime import open_session
    from segdeploy.runtime.open import eager_artifact
    from segdeploy.runtime.predictor import predict_labels

    checkpoint = run.work_dir / "epoch_1.pth"
    model = [f"{key}={value.replace(' ', '')}" for key, value in tiny.items() if key.startswith("model.")]
    mmseg("test", CONFIG, checkpoint, "--work-dir", tmp_path / "t", "--out", tmp_path / "pred", *data_options, *model)
    voc = synthetic / "VOCdevkit/VOC2012"
    stems = (voc / "ImageSets/Segmentation/val.txt").read_text().split()
    assert sorted(path.stem for path in (tmp_path / "pred").iterdir()) == sorted(stems)
    with open_session(eager_artifact(checkpoint), "cpu") as session:
        for stem in stems:
            expected = predict_labels(session, read_image(voc / "JPEGImages" / f"{stem}.jpg"))
            np.testing.assert_array_equal(np.array(Image.open(tmp_path / "pred" / f"{stem}.png")), expected)


@pytest.mark.slow
def test_convert_segformer(mmseg, tmp_path):
    """Official SegFormer weights get mmseg's names and shapes: they fit its backbone, with q, k and v joined in that order."""
    import torch
    from mmseg.registry import MODELS

    official = {
        "patch_embed1.proj.weight": torch.randn(8, 3, 7, 7),
        "block1.0.attn.q.weight": torch.randn(8, 8),
        "block1.0.attn.kv.weight": torch.randn(16, 8),
        "block1.0.mlp.fc1.weight": torch.randn(32, 8),
        "block1.0.mlp.dwconv.dwconv.weight": torch.randn(32, 1, 3, 3),
        "norm1.bias": torch.randn(8),
        "head.weight": torch.randn(10, 8),
    }
    torch.save(official, tmp_path / "mit.pth")
    mmseg("mit2mmseg", tmp_path / "mit.pth", tmp_path / "new" / "out.pth")
    converted = torch.load(tmp_path / "new" / "out.pth", weights_only=True)
    backbone = MODELS.build({"type": "MixVisionTransformer", "embed_dims": 8, "num_layers": [1] * 4, "num_heads": [1, 1, 1, 1]})
    own = backbone.state_dict()
    assert {key: value.shape for key, value in converted.items()} == {key: own[key].shape for key in converted}
    joined = converted["layers.0.1.0.attn.attn.in_proj_weight"]
    assert torch.equal(joined, torch.cat([official["block1.0.attn.q.weight"], official["block1.0.attn.kv.weight"]]))
    assert torch.equal(converted["layers.0.2.bias"], official["norm1.bias"])
    assert len(converted) == len(official) - 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_convert_clip(mmseg, tmp_path):
    """CLIP's weights are converted out of a plain dict; the list says how to make one of OpenAI's archive."""
    import torch

    class Clip(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = torch.nn.Module()
            self.visual.class_embedding = torch.nn.Parameter(torch.randn(8))
            self.visual.positional_embedding = torch.nn.Parameter(torch.randn(5, 8))
            self.visual.proj = torch.nn.Parameter(torch.randn(8, 4))

        def forward(self, x):
            return x

    assert "torch.jit.load(FILE).state_dict()" in find_tool("clip2mmseg").summary
    model = Clip()
    torch.jit.save(torch.jit.script(model), tmp_path / "ViT-B-16.pt")
    torch.save(torch.jit.load(tmp_path / "ViT-B-16.pt").state_dict(), tmp_path / "ViT-B-16.pth")
    mmseg("clip2mmseg", tmp_path / "ViT-B-16.pth", tmp_path / "out.pth")
    converted = torch.load(tmp_path / "out.pth", weights_only=True)
    assert torch.equal(converted["decode_head.rec_with_attnbias.proj.weight"], model.visual.proj.T)
    assert torch.equal(converted["image_encoder.cls_token"][0, 0], model.visual.class_embedding)


@pytest.mark.shared
@pytest.mark.slow
def test_voc_aug(mmseg, shared, tmp_path):
    """SBD's .mat become label maps in worker processes; of a part of the images the tool makes no list, and ours is named."""
    from scipy.io import loadmat

    root = Path(shutil.copytree(shared / "data" / "voc-mini", tmp_path / "voc"))
    with pytest.raises(InputError, match=r"10582.* or use: segdeploy data voc$"):
        mmseg("voc_aug", root / "VOCdevkit", root / "benchmark_RELEASE", "--nproc", "2")
    for path in (root / "benchmark_RELEASE/dataset/cls").iterdir():
        label = loadmat(path)["GTcls"][0]["Segmentation"][0]
        written = np.array(Image.open(root / "VOCdevkit/VOC2012/SegmentationClassAug" / f"{path.stem}.png"))
        np.testing.assert_array_equal(written, label)
