import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from segdeploy import __version__
from segdeploy.base.errors import GateFailed, GateUndecided, InputError
from segdeploy.cli import main as entry
from segdeploy.cli.main import COMMANDS


def test_help_names_every_command(main):
    """One line each, in the order in which a user meets them; asking for help is no error."""
    ended = main("--help")
    assert ended.status == 0
    listed = re.findall(r"^  (\w+)  +\w", ended.out.split("Commands:")[1], re.MULTILINE)
    assert listed == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_answers_help(main, name):
    """Exit 0, with its own name and every option explained."""
    for flag in ("--help", "-h"):
        ended = main(name, flag)
        assert ended.status == 0, ended
        assert f"segdeploy {name}" in ended.out or f"main {name}" in ended.out or f"cli {name}" in ended.out
        assert ended.err == ""


def commands(group, context):
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield command
        if isinstance(command, click.Group):
            yield from commands(command, context)


def test_every_option_is_explained():
    """No option, of whatever command, without help or a form that explains itself."""
    for command in commands(entry.cli, click.Context(entry.cli, **entry.cli.context_settings)):
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help or option.metavar or option.show_default, f"{command.name} {option.name}"


def test_version(main):
    """The package's own."""
    assert main("--version").out.strip().endswith(__version__)


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-command",),
        ("eval", "--no-such-option"),
        ("eval", "--device", "tpu"),
        ("eval", "--limit", "0"),
        ("eval", "--threads", "none"),
        ("export",),
        ("export", "--to"),
        ("export", "--to", "onnx", "--workspace", "0"),
        ("predict",),
        ("predict", "x.png"),
        ("inspect",),
        ("verify", "--batch", "0"),
    ],
)
def test_wrong_usage(main, arguments):
    """Exit 2 with what is wrong on stderr, nothing on stdout, and nothing written."""
    ended = main(*arguments)
    assert ended.status == 2
    assert "Error: " in ended.err
    assert ended.out == ""
    assert not list(Path().iterdir())


def raising(monkeypatch, error):
    @click.command("eval")
    def command():
        raise error

    monkeypatch.setattr(entry.LazyGroup, "get_command", lambda *_: command)


@pytest.mark.parametrize(("kind", "status"), [(InputError, 1), (GateFailed, 3), (GateUndecided, 4)])
def test_our_errors_are_one_line(main, monkeypatch, kind, status):
    """An error of ours ends in its one line on stderr and its status."""
    raising(monkeypatch, kind(expected="a\nb", got="c", fix="d"))
    assert main("eval") == (status, "", "error: expected a b; got c; d\n")


def test_a_bug_keeps_its_traceback(main, monkeypatch):
    """Anything else is a bug, and is not dressed up."""
    raising(monkeypatch, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        main("eval")


def test_an_interrupt(main, monkeypatch):
    """Ctrl-C ends with 130 and says how to go on."""
    raising(monkeypatch, KeyboardInterrupt())
    ended = main("eval")
    assert ended.status == 130
    assert "interrupted" in ended.err


def test_the_installed_command(tmp_path):
    """The command that the package installs: a bad input gives one line, exit 1, and no traceback."""
    command = Path(sys.executable).with_name("segdeploy")
    if not command.is_file():
        pytest.skip("the package is not installed as a command")
    done = subprocess.run([command, "inspect", "none"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: expected an artifact folder with manifest.json at 'none'; got no such folder; ")
    assert done.stderr.count("\n") == 1
