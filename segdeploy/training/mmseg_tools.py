"""mmseg's own tools (converters, analysis, print_config), run as they lie in the installed package: no clone is needed."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import os
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

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
    "model_converters/clip2mmseg": "Convert keys in official pretrained CLIP models to MMSegmentation style",
    "model_converters/san2mmseg": "Convert keys in official pretrained SAN models to MMSegmentation style",
    "model_converters/swin2mmseg": "Convert keys in official pretrained Swin models to MMSegmentation style",
    "model_converters/twins2mmseg": "Convert keys in official pretrained Twins models to MMSegmentation style",
    "analysis_tools/analyze_logs": "Plot scalars of training logs",
    "analysis_tools/benchmark": "Images per second of a model under PyTorch, on 200 test images",
    "analysis_tools/browse_dataset": "Draw a dataset's images with their labels, after the training pipeline",
    "analysis_tools/confusion_matrix": "Draw the confusion matrix of the predictions that `test --out DIR` wrote",
    "analysis_tools/visualization_cam": "Draw class activation maps (CAM) of an image",
}
# What fails on current packages -> the command that does the same.
INSTEAD = {
    "misc/browse_dataset": "segdeploy mmseg browse_dataset",
    "misc/publish_model": "segdeploy publish",
    "deployment/pytorch2torchscript": "segdeploy export --to torchscript",
    "torchserve/mmseg2torchserve": "segdeploy pack",
}


@dataclass(frozen=True)
class Mend:
    """What keeps a tool from working as it is installed, and the change of its text that removes it for this run.

    Attributes:
        effect: what is different, told to the user.
        changes: (old, new) text. Where the old one is not there, the tool is of another version and runs as it is.
    """

    effect: str
    changes: tuple[tuple[str, str], ...]


MENDS: dict[str, Mend] = {
    "dataset_converters/voc_aug": Mend(
        "fewer images than the full set's 10,582 are no error; the lists are sorted",
        (
            ("return list(set(merged_list)", "return sorted(set(merged_list)"),
            (
                "    assert len(aug_train_list) == AUG_LEN, 'len(aug_train_list) != {}'.format(\n        AUG_LEN)",
                "    print(f'\\ntrainaug: {len(aug_train_list)} images; of the full set {AUG_LEN}')\n",
            ),
            ("assert len(aug_list) == AUG_LEN", "assert True or len(aug_list) == AUG_LEN"),
        ),
    ),
    "model_converters/clip2mmseg": Mend(
        "a TorchScript archive, which is what OpenAI publishes, is read as one",
        (
            (
                "    checkpoint = CheckpointLoader.load_checkpoint(args.src, map_location='cpu')",
                (
                    "    try:\n"
                    "        checkpoint = torch.jit.load(args.src, map_location='cpu')\n"
                    "    except (RuntimeError, ValueError):\n"
                    "        checkpoint = CheckpointLoader.load_checkpoint(args.src, map_location='cpu')"
                ),
            ),
        ),
    ),
    "analysis_tools/analyze_logs": Mend(
        "the style is matplotlib's, seaborn is not needed",
        (
            ("import seaborn as sns\n", ""),
            ("sns.set_style(args.style)", "plt.style.use(f'seaborn-v0_8-{args.style}')"),
        ),
    ),
    "analysis_tools/browse_dataset": Mend(
        "a config needs no visualizer; without a display nothing is shown",
        (
            (
                "VISUALIZERS.build(cfg.visualizer)",
                "VISUALIZERS.build(cfg.get('visualizer') or dict(type='SegLocalVisualizer', name='browse', alpha=0.5))",
            ),
            ("show=not args.not_show", "show=not args.not_show and os.environ.get('MPLBACKEND') != 'Agg'"),
            ("import os.path as osp", "import os, os.path as osp"),
        ),
    ),
    "analysis_tools/confusion_matrix": Mend(
        "the classes are the config's, and more than 16 of them no longer overflow",
        (
            (".gt_sem_seg.data.squeeze().numpy().astype(np.uint8)", ".gt_sem_seg.data.squeeze().numpy().astype(np.int64)"),
            ("dataset.METAINFO['classes']", "dataset.metainfo['classes']"),
        ),
    ),
}


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
        arguments: handed through; only the name of a config, where the tool takes one, becomes its path.

    Raises:
        SystemExit: the tool ended itself, with its status.
        InputError: a file that it needs is missing, or it refused its input.
        CheckpointError: a checkpoint that it cannot read.
        BackendError: a package that it needs is not installed.
        ConfigError: there is no such config.
    """
    load_mmseg()
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")) and sys.platform.startswith("linux"):
        os.environ.setdefault("MPLBACKEND", "Agg")
    name = f"segdeploy mmseg {tool.name}"
    fix = f"use: {INSTEAD[tool.label]}" if tool.label in INSTEAD else f"see: {name} --help"
    try:
        _execute(tool, [name, *_with_config_path(tool, arguments)])
    except ModuleNotFoundError as error:
        package = (error.name or str(error)).partition(".")[0]
        raise BackendError(
            expected=f"the package '{package}', which mmseg's {tool.name} imports",
            got="it is not installed",
            fix=f"pip install {_PACKAGES.get(package, package)}",
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
    except Exception as error:
        if tool.label not in INSTEAD:  # a fault of the tool: its traceback is what can be told
            raise
        raise BackendError(
            expected=f"an mmseg whose {tool.name} works", got=f"{type(error).__name__}: {error}", fix=fix
        ) from error


def _execute(tool: Tool, argv: list[str]) -> None:
    source = tool.path.read_text(encoding="utf-8")
    mend = MENDS.get(tool.label)
    for old, new in mend.changes if mend else ():
        source = source.replace(old, new)
    # A module of its own in the place of __main__: worker processes look for the tool's functions there.
    module = ModuleType("__main__")
    module.__file__ = str(tool.path)
    before = sys.argv, sys.modules["__main__"]
    sys.argv, sys.modules["__main__"] = argv, module
    try:
        exec(compile(source, str(tool.path), "exec"), vars(module))  # noqa: S102  what running a script is
    finally:
        sys.argv, sys.modules["__main__"] = before


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
