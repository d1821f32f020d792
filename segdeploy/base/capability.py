"""Something that a user may want to do on this machine, and whether it can be done: found by trying."""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass

from segdeploy.base.versions import version_of


@dataclass(frozen=True)
class Capability:
    """One thing that a user may want to do here.

    Attributes:
        purpose: what for.
        works: whether it can be done now.
        found: the packages behind it, or what is in the way.
        remedy: what to do where it cannot.
    """

    purpose: str
    works: bool
    found: str
    remedy: str = ""


def needs(purpose: str, modules: Sequence[str], packages: Sequence[str], extra: str) -> Capability:
    """Whether everything imports that a purpose needs.

    Args:
        purpose: what for.
        modules: that must import.
        packages: the distributions to name with their versions where they do.
        extra: the name in ``pip install 'segdeploy[extra]'`` where they do not.
    """
    problem = next((text for text in map(import_problem, modules) if text), "")
    remedy = f"pip install 'segdeploy[{extra}]'" if problem else ""
    return Capability(purpose, not problem, problem or named_versions(packages), remedy)


def import_problem(module: str) -> str:
    """Why a module does not import; empty where it does."""
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"
    except Exception as error:  # noqa: BLE001  a broken package can raise anything, and that is the finding
        return f"{module} does not import: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return ""


def named_versions(packages: Sequence[str]) -> str:
    """Distributions and their versions, in one text."""
    return ", ".join(f"{name} {version_of(name) or '?'}" for name in packages)
