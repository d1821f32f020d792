import pickle

import pytest

from segdeploy.base import errors
from segdeploy.base.errors import GateFailed, GateUndecided, MissingExtraError, SegdeployError

TREE = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, SegdeployError)]


def test_text_is_one_line():
    """However many lines come in, an error's text is one, in the order expected, got, fix."""
    error = SegdeployError(expected="a\nb", got="  c\r\n\td ", fix="e")
    assert str(error) == "expected a b; got c d; e"


@pytest.mark.parametrize("kind", TREE)
def test_exit_codes(kind):
    """1 for every error but the two verdicts."""
    assert kind.exit_code == {GateFailed: 3, GateUndecided: 4}.get(kind, 1)


def test_the_tree_in_the_file_is_the_tree():
    """The drawing at the head of the file names every class, and no other."""
    drawn = {word for line in errors.__doc__.splitlines()[2:] for word in line.split() if word[0].isupper() and word.isalpha()}
    assert drawn == {kind.__name__ for kind in TREE}


def test_missing_extra_names_the_command():
    """A missing package says what to install."""
    error = MissingExtraError(package="onnxruntime", extra="onnx", purpose="running ONNX artifacts")
    assert error.extra == "onnx"
    assert "pip install 'segdeploy[onnx]'" in str(error)


@pytest.mark.parametrize(
    "error",
    [
        errors.InputError(expected="a", got="b\nc", fix="d"),
        errors.MissingExtraError(package="torch", extra="train", purpose="running"),
        errors.GateFailed(expected="a", got="b", fix="c"),
    ],
)
def test_errors_cross_processes(error):
    """Pickled and back: type, text, parts and exit status are the same."""
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)
    assert back.exit_code == error.exit_code
