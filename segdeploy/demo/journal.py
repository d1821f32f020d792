"""What the demo has finished, so that it can be interrupted and go on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from segdeploy.base.files import write_file

Result = TypeVar("Result")


class StageRecord(msgspec.Struct, frozen=True):
    """One finished stage.

    Attributes:
        name: of the stage.
        seconds: how long it took, on the wall clock.
        outputs: files and folders that it left; where one is gone, the stage is done again.
        result: what it found, as JSON.
    """

    name: str
    seconds: float
    outputs: tuple[str, ...]
    result: msgspec.Raw


class _State(msgspec.Struct, frozen=True):
    identity: str
    stages: tuple[StageRecord, ...]


def fingerprint(inputs: Iterable[object]) -> str:
    """A hash of everything that the results depend on."""
    return hashlib.sha256(repr(list(inputs)).encode()).hexdigest()


class Journal:
    """Runs stages in order, and skips those that an earlier run has finished.

    A stage that has to run makes all later ones run too: they were made from what it makes.

    Attributes:
        continues: whether an earlier run with the same identity has finished something.
        stages: what is finished, in order.
    """

    def __init__(self, path: Path, identity: str) -> None:
        """Read the state of an earlier run.

        Args:
            path: the state's file.
            identity: a ``fingerprint``; an earlier run with another one counts as none.
        """
        self._path = path
        self._identity = identity
        self._earlier = self._read()
        self.continues = bool(self._earlier)
        self.stages: list[StageRecord] = []

    def run(
        self, name: str, kind: type[Result], outputs: Iterable[Path], work: Callable[[], Result], say: Callable[[str], None]
    ) -> Result:
        """Do a stage, or take its result from an earlier run.

        Args:
            name: of the stage.
            kind: the type of its result.
            outputs: what it leaves on disk.
            work: does it.
            say: told what happens, a line.
        """
        paths = tuple(str(path) for path in outputs)
        earlier = self._earlier.get(name)
        if earlier and earlier.outputs == paths and all(Path(path).exists() for path in paths):
            say(f"{name}: finished earlier ({earlier.seconds:.0f} s)")
            self.stages.append(earlier)
            return msgspec.json.decode(earlier.result, type=kind)
        self._earlier = {}
        say(f"{name} ...")
        started = time.monotonic()
        result = work()
        seconds = time.monotonic() - started
        self.stages.append(StageRecord(name, seconds, paths, msgspec.Raw(msgspec.json.encode(result))))
        write_file(self._path, msgspec.json.encode(_State(self._identity, tuple(self.stages))))
        say(f"{name}: {seconds:.0f} s")
        return result

    def _read(self) -> dict[str, StageRecord]:
        try:
            state = msgspec.json.decode(self._path.read_bytes(), type=_State)
        except (OSError, msgspec.DecodeError):
            return {}
        return {one.name: one for one in state.stages} if state.identity == self._identity else {}
