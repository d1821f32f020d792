"""mmseg's own tools (converters, analysis, print_config), run as they lie in the installed package: no clone is needed."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import os
import pickle
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

from segdeploy.base.errors import BackendError, CheckpointError, InputError, MissingExtraError
from segdeploy.models.configs import config_folder, find_config
from segdeploy.models.packages import load_mmseg

# In the order in which they are listed; of two tools with one name the first is meant.
_GROUPS = ("dataset_converters", "model_converters", "analysis_tools", "misc", "deployment", "torchserve", "")
# Import name -> what to install, where it has another name. On the package index 'detail' is something else.
_PACKAGES = {"pytorch_grad_cam": "grad-cam", "detail": "'detail' from https://github.com/zhanghang1989/detail-api"}
# Where a tool's own description is missing or is that of the tool it was copied from.
_SUMMARIES = {
    "dataset_converters/pascal_context": "Convert PASCAL Context annotations to mmsegmentation format",
    "dataset_converters/voc_aug": "Convert SBD's annotations and list them with PASCAL VOC's as trainaug",
    "model_converters/beit2mmseg": "Convert keys in official pretrained BEiT models to MMSegmentation style",
    "model_converters/clip2mmseg": (
        "Convert keys in official pretrained CLIP models to MMSegmentation style; "
        "of OpenAI's TorchScript archive first save torch.jit.load(FILE).state_dict()"
    ),
    "model_converters/san2mmseg": "Convert keys in official pretrained SAN models to MMSegmentation style",
    "model_converters/swin2mmseg": "Convert keys in official pretrained Swin models to MMSegmentation style",
    "model_converters/twins2mmseg": "Convert keys in official pretrained Twins models to MMSegmentation style",
    "analysis_tools/analyze_logs": "Plot scalars of training logs",
    "analysis_tools/benchmark": "Images per second of a model under PyTorch, on 200 test images",
    "analysis_tools/browse_dataset": "Draw a dataset's images with their labels, after the training pipeline",
    "analysis_tools/confusion_matrix": "Draw the confusion matrix of the predictions that `test --out DIR` wrote",
    "analysis_tools/visualization_cam": "Draw class activation maps (CAM) of an image",
}


@dataclass(frozen=True)
class Ours:
    """A command of ours that does what a tool of mmseg's does.

    Attributes:
        command: what to type.
        why: what is wrong with theirs, which is then not run; empty: it runs, and ours is named where it fails.
    """

    command: str
    why: str = ""


OURS = {
    "dataset_converters/voc_aug": Ours("segdeploy data voc"),
    "analysis_tools/analyze_logs": Ours("segdeploy plot"),
    "analysis_tools/confusion_matrix": Ours(
        "segdeploy eval --confusion FILE",
        "it needs a data set class with names of its own, and counts more than 16 classes wrongly",
    ),
    "misc/browse_dataset": Ours("segdeploy mmseg browse_dataset", "it fails on current packages"),
    "misc/publish_model": Ours("segdeploy publish", "it fails on current packages"),
    "deployment/pytorch2torchscript": Ours("segdeploy export --to torchscript", "it fails on current packages"),
    "torchserve/mmseg2torchserve": Ours("segdeploy pack", "it fails on current packages"),
}
# A config need not have a visualizer, this tool needs one: what stands in one is replaced, unless the user speaks of it.
_BROWSER = (
    "--cfg-options",
    "visualizer._delete_=True",
    "visualizer.type=SegLocalVisualizer",
    "visualizer.name=browse",
    "visualizer.alpha=0.5",
)


@dataclass(frozen=True)
class Tool:
    """One of mmseg's tools.

    Attributes:
        group: its folder, such as ``dataset_converters``; empty for those beside the folders.
        name: what to call it.
        path: its file.
        summary: one line, mostly out of its own argument parser.
        positionals: its positional arguments.
    """

    group: str
    name: str
    path: Path
    summary: str
    positionals: tuple[str, ...]

    @property
    def label(self) -> str:
        """Group and name, as in mmseg's documentation."""
        return f"{self.group}/{self.name}" if self.group else self.name


def list_tools() -> list[Tool]:
    """The tools of the installed mmseg, group by group. They are read, not imported.

    Raises:
        MissingExtraError: mmseg is not installed.
        BackendError: it carries no tools.
    """
    found = importlib.util.find_spec("mmseg")
    if found is None or found.origin is None:
        raise MissingExtraError(package="mmseg", extra="train", purpose="its tools")
    root = Path(found.origin).parent / ".mim" / "tools"
    tools = [tool for group in _GROUPS for path in sorted((root / group).glob("*.py")) if (tool := _described(group, path))]
    if not tools:
        raise BackendError(
            expected=f"mmseg's tools in '{root}'",
            got="none",
            fix="install mmseg as a package, not from a checkout: pip install 'segdeploy[train]'",
        )
    return tools


def find_tool(name: str) -> Tool:
    """A tool by its name, alone (``voc_aug``) or as mmseg's documentation writes it (``tools/dataset_converters/voc_aug.py``).

    Raises:
        InputError: there is none; names what is close.
        MissingExtraError: mmseg is not installed.
    """
    tools = list_tools()
    wanted = name.removesuffix(".py").removeprefix("tools/")
    for tool in tools:
        if wanted in {tool.name, tool.label}:
            return tool
    names = dict.fromkeys(tool.name for tool in tools)
    close = difflib.get_close_matches(wanted.rpartition("/")[2], names, n=3, cutoff=0.5)
    raise InputError(
        expected="one of mmseg's tools",
        got=f"'{name}'",
        fix=f"did you mean {' or '.join(close)}?" if close else "list them with: segdeploy mmseg",
    )


def run_tool(tool: Tool, arguments: list[str]) -> None:
    """Run a tool in this process as if it were its program. What it executes and loads is its own matter.

    Args:
        tool: which one.
        arguments: handed through; the name of a config, where the tool takes one, becomes its path, and ``browse_dataset``
            gets a visualizer, and ``--not-show`` where there is no display.

    Raises:
        SystemExit: the tool ended itself, with its status.
        InputError: a file that it needs is missing, or it refused its input.
        CheckpointError: a checkpoint that it cannot read.
        BackendError: it is known not to work, or a package that it needs is not installed.
        ConfigError: there is no such config.
    """
    ours = OURS.get(tool.label)
    if ours is not None and ours.why:
        raise BackendError(expected="a tool of mmseg's that works", got=f"{tool.label}: {ours.why}", fix=f"use: {ours.command}")
    load_mmseg()
    screen = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")) or not sys.platform.startswith("linux")
    if not screen:
        os.environ.setdefault("MPLBACKEND", "Agg")
    instead = f", or use: {ours.command}" if ours else ""
    fix = f"see: segdeploy mmseg {tool.name} --help{instead}"
    try:
        _execute(tool, _arguments(tool, arguments, screen=screen))
    except ModuleNotFoundError as error:
        package = (error.name or str(error)).partition(".")[0]
        raise BackendError(
            expected=f"the package '{package}', which mmseg's {tool.name} imports",
            got="it is not installed",
            fix=f"pip install {_PACKAGES.get(package, package)}{instead}",
        ) from error
    except BrokenPipeError:
        raise
    except (OSError, AssertionError) as error:
        raise InputError(
            expected=f"input that mmseg's {tool.name} can use", got=f"{type(error).__name__}: {error}", fix=fix
        ) from error
    except (EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            expected=f"a file that mmseg's {tool.name} can read",
            got=f"{type(error).__name__}: {next(iter(str(error).splitlines()), 'it ends too early')}",
            fix=fix,
        ) from error


def _execute(tool: Tool, arguments: list[str]) -> None:
    before = sys.argv
    sys.argv = [str(tool.path), *arguments]
    try:
        runpy.run_path(str(tool.path), run_name="__main__")
    finally:
        sys.argv = before


def _arguments(tool: Tool, arguments: list[str], *, screen: bool) -> list[str]:
    """What a tool is given: the user's own, and what it cannot do without."""
    given = _with_config_path(tool, arguments)
    if tool.label == "analysis_tools/browse_dataset":
        given = given if any(one.startswith("visualizer") for one in given) else [*given, *_BROWSER]
        given = given if screen else [*given, "--not-show"]
    return given


def _with_config_path(tool: Tool, arguments: list[str]) -> list[str]:
    """Tools open a config as a file: ours and ``mmseg::`` names become the path of theirs."""
    if "config" not in tool.positionals:
        return arguments
    ours = {path.stem for path in config_folder().glob("*.py")}
    for index, argument in enumerate(arguments):
        is_it = index == 0 and tool.positionals[0] == "config" and not argument.startswith("-")
        if is_it or argument.startswith("mmseg::") or argument.removesuffix(".py") in ours:
            return [*arguments[:index], str(find_config(argument)), *arguments[index + 1 :]]
    return arguments


def _described(group: str, path: Path) -> Tool | None:
    """What a file's text says of it; None where it is no program."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    parsers = [call for call in calls if ast.unparse(call.func).rpartition(".")[2] == "ArgumentParser"]
    if not parsers:
        return None
    described = (keyword.value for keyword in parsers[0].keywords if keyword.arg == "description")
    summary = next((value.value for value in described if isinstance(value, ast.Constant)), path.stem)
    added = [call.args[0] for call in calls if ast.unparse(call.func).endswith("add_argument") and call.args]
    names = [str(one.value) for one in sorted(added, key=lambda one: one.lineno) if isinstance(one, ast.Constant)]
    summary = _SUMMARIES.get(f"{group}/{path.stem}", " ".join(str(summary).split()).rstrip("."))
    return Tool(group, path.stem, path, summary, tuple(name for name in names if not name.startswith("-")))
