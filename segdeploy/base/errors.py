"""Every error that a user can meet. Anything else that is raised is a bug and keeps its traceback.

SegdeployError                 exit 1
├── InputError                 an image, a folder, a data set or an option that cannot be used
├── CheckpointError            a checkpoint that is missing, damaged, or does not fit its config
├── ConfigError                a config that cannot be parsed or built
├── ArtifactError              an exported artifact that is missing, altered, or not for this machine
├── BackendError               a backend that is unknown or cannot run here
│   └── MissingExtraError      a backend whose packages are not installed
├── DivergedError              a training whose loss is no finite number any more
├── ExportError                a model that cannot be exported as asked
├── ServeError                 the server did not start, or answered wrongly
├── GateFailed                 exit 3: a gate (parity, regression) said no
└── GateUndecided              exit 4: a gate could not decide
"""

from __future__ import annotations

import copyreg
from typing import Any, ClassVar


class SegdeployError(Exception):
    """A problem that the user can mend; its text is always one line.

    Attributes:
        expected: what was needed.
        got: what came instead.
        fix: what to do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, *, expected: str, got: str, fix: str) -> None:
        self.expected = _one_line(expected)
        self.got = _one_line(got)
        self.fix = _one_line(fix)
        super().__init__(f"expected {self.expected}; got {self.got}; {self.fix}")

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled as it is, for the way out of a worker process: pickle would otherwise call a constructor without keywords.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class InputError(SegdeployError):
    """An image, a folder, a data set or an option that cannot be used."""


class CheckpointError(SegdeployError):
    """A checkpoint that is missing, damaged, or does not fit its config."""


class ConfigError(SegdeployError):
    """A config that cannot be parsed or built."""


class ArtifactError(SegdeployError):
    """An exported artifact that is missing, altered, or not for this machine."""


class BackendError(SegdeployError):
    """A backend that is unknown or cannot run here."""


class MissingExtraError(BackendError):
    """A backend whose packages are not installed.

    Attributes:
        extra: the name in ``pip install 'segdeploy[extra]'``.
    """

    def __init__(self, *, package: str, extra: str, purpose: str) -> None:
        self.extra = extra
        super().__init__(
            expected=f"the package '{package}' ({purpose})",
            got="it is not installed",
            fix=f"run: pip install 'segdeploy[{extra}]'",
        )


class DivergedError(SegdeployError):
    """A training whose loss is no finite number any more."""


class ExportError(SegdeployError):
    """A model that cannot be exported as asked."""


class ServeError(SegdeployError):
    """The server did not start, or answered wrongly."""


class GateFailed(SegdeployError):  # noqa: N818  a verdict, not a fault of the program
    """A gate (parity, regression) said no."""

    exit_code: ClassVar[int] = 3


class GateUndecided(SegdeployError):  # noqa: N818  a verdict, not a fault of the program
    """A gate could not decide."""

    exit_code: ClassVar[int] = 4


def _one_line(text: str) -> str:
    return " ".join(str(text).split())
