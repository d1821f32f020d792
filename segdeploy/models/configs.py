"""Finding and loading mmseg configs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segdeploy.base.errors import ConfigError
from segdeploy.models.packages import load_mmseg


def config_folder() -> Path:
    """Where segdeploy's own training configs lie: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).parent.parent
    checkout = package.parent / "configs" / "training"
    return checkout if checkout.is_dir() else package / "configs" / "training"


def find_config(name: str) -> Path:
    """The file of a config.

    Args:
        name: a path, a name from ``configs/training`` (with or without ``.py``), or ``mmseg::family/name.py``.

    Raises:
        ConfigError: there is none; names what is close.
        MissingExtraError: ``mmseg::`` was asked for and mmseg is not installed.
    """
    if name.startswith("mmseg::"):
        folder, wanted = _mmseg_folder(), name.removeprefix("mmseg::")
        pattern = "*/*.py"
    else:
        if Path(name).is_file():
            return Path(name)
        folder, wanted = config_folder(), name
        pattern = "*.py"
    path = folder / (wanted if wanted.endswith(".py") else wanted + ".py")
    if path.is_file():
        return path
    known = {str(one.relative_to(folder)): one for one in folder.glob(pattern) if not str(one.parent.name).startswith("_")}
    close = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5) or sorted(known)[:3]
    prefix = "mmseg::" if name.startswith("mmseg::") else ""
    raise ConfigError(
        expected="a config: a path, a name from configs/training, or mmseg::family/name.py",
        got=f"'{name}'",
        fix="did you mean " + ", ".join(f"{prefix}{one}" for one in close) + "?",
    )


def load_config(name: str, options: Mapping[str, str] | None = None) -> Any:
    """Load a config, which executes it, and apply options to it.

    Args:
        name: see ``find_config``.
        options: ``a.b=value`` pairs, as mmseg's ``--cfg-options``: literals where they are such, else strings.

    Returns:
        An ``mmengine.Config``.

    Raises:
        ConfigError: it is not found, does not load, or an option names a key that is not there.
    """
    load_mmseg()
    from mmengine.config import Config

    path = find_config(name)
    try:
        config = Config.fromfile(path)
    except ImportError as error:
        raise ConfigError(
            expected=f"the packages that the config '{path}' imports",
            got=str(error).partition(", the current sys.path")[0],
            fix="install them",
        ) from error
    except Exception as error:  # a config is Python: anything can be raised while it runs
        raise ConfigError(
            expected=f"an mmseg config that loads at '{path}'", got=f"{type(error).__name__}: {error}", fix="mend it"
        ) from error
    for key, value in (options or {}).items():
        _require_parent(config, key)
        try:
            config.merge_from_dict({key: _literal(value)})
        except (KeyError, TypeError, IndexError, AssertionError) as error:
            raise ConfigError(
                expected=f"a key of the config for --cfg-options {key}", got=str(error), fix="check it in the config"
            ) from error
    return config


def config_families() -> dict[str, tuple[str, ...]]:
    """The families of configs that the installed mmseg ships: folder -> the names of its configs, without ``.py``.

    Raises:
        MissingExtraError: mmseg is not installed.
    """
    folders = sorted(path for path in _mmseg_folder().iterdir() if path.is_dir() and not path.name.startswith("_"))
    found = {folder.name: tuple(sorted(path.stem for path in folder.glob("*.py"))) for folder in folders}
    return {family: configs for family, configs in found.items() if configs}


def _mmseg_folder() -> Path:
    load_mmseg()
    import mmseg

    return Path(mmseg.__file__).parent / ".mim" / "configs"


def _require_parent(config: Any, key: str) -> None:
    """A misspelt key would otherwise make a new branch that nothing reads."""
    node = dict(config.items())
    *parents, _ = key.split(".")
    for name in parents:
        # An index into a list, as in train_pipeline.0.type, is left to MMEngine.
        if isinstance(node, (list, tuple)):
            return
        if not isinstance(node, Mapping) or name not in node:
            raise ConfigError(
                expected=f"a key of the config for --cfg-options {key}",
                got=f"'{name}', which is not there",
                fix=f"choose out of {', '.join(sorted(map(str, node)))}" if isinstance(node, Mapping) else "check it",
            )
        node = node[name]


def _literal(text: str) -> Any:
    import ast

    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)
