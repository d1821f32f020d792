"""Running the command line, in this process and in a fresh one."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import NamedTuple

import pytest

from support.bench import data_root, foreign_engine, report, row, tiny_artifact

__all__ = ["data_root", "foreign_engine", "main", "one_line", "report", "row", "run_python", "tiny_artifact"]


class Ended(NamedTuple):
    """How a run of the command line ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def main(tmp_path, monkeypatch, capsys, one_thread):
    """Runs ``segdeploy ARGUMENTS`` in a folder of its own."""
    from segdeploy.cli.main import main as entry

    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["segdeploy", *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            entry()
        except SystemExit as end:
            status = end.code or 0
        captured = capsys.readouterr()
        return Ended(status, captured.out, captured.err)

    return run


@pytest.fixture
def one_line():
    """Holds an ended run to the contract of an error: exit 1, and one line of expected, got and fix."""

    def check(ended, *words, status=1):
        lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
        assert ended.status == status, ended
        assert len(lines) == 1, ended.err
        assert "Traceback" not in ended.err
        assert lines[0].startswith("error: expected ")
        assert "; got " in lines[0]
        assert lines[0].count("; ") >= 2, lines[0]
        for word in words:
            assert str(word) in lines[0], lines[0]

    return check


@pytest.fixture
def run_python(tmp_path):
    """Runs code in a fresh interpreter in which some packages cannot be imported; gives what it printed as JSON."""

    def run(code, *, blocked=()):
        script = f"""
import importlib.abc, json, sys
BLOCKED = {tuple(blocked)!r}

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""
        done = subprocess.run(
            [sys.executable, "-c", script + textwrap.dedent(code)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run
