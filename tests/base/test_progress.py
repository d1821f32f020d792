import io

import pytest

from segdeploy.base import progress
from segdeploy.base.progress import progress_bar, track


def test_plain_lines(capsys):
    """Without a terminal: one line at the end, on stderr, with the note; nothing on stdout."""
    with progress_bar("work", 3, done=1) as advance:
        advance()
        advance(note="loss 0.5")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("work: 3/3  ")
    assert captured.err.endswith("loss 0.5\n")
    assert captured.err.count("\n") == 1


def test_a_long_job_speaks_now_and_then(capsys, monkeypatch):
    """A CI log gets a line when ten seconds have passed, not one a step."""
    clock = iter([0.0, 3.0, 11.0, 12.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress_bar("work", 100) as advance:
        for _ in range(3):
            advance()
    assert capsys.readouterr().err == "work: 2/100  11 s, 539 s left\n"


def test_track(capsys):
    """The items come through unchanged, and all are counted."""
    assert list(track("abc", "work", 3)) == ["a", "b", "c"]
    assert "work: 3/3" in capsys.readouterr().err


def test_a_terminal_gets_a_bar(monkeypatch):
    """On a terminal the bar is drawn on stderr."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("work", 2) as advance:
        advance(2, "done soon")
    assert "work" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()


def test_an_error_inside_comes_through():
    """What the block raises is not swallowed."""
    with pytest.raises(ValueError, match="inside"), progress_bar("work", 2):
        raise ValueError("inside")
