"""What the zoo found: the content of its report."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from segdeploy.artifact.verdict import ShapeParity
from segdeploy.base.errors import InputError
from segdeploy.base.records import Struct

SCHEMA = 1
Outcome: TypeAlias = Literal["exported", "not available", "not supported", "failed"]


class FormatResult(Struct, frozen=True):
    """One format of one model.

    Attributes:
        format: its name.
        status: ``dynamic`` and ``static`` passed parity at every shape in ``parity``; ``failed`` did not.
        step: what a dynamic height and width are multiples of.
        parity: the figures, a shape each.
        bytes: of the model file; None where there is none.
        seconds: export and verification together.
        reason: why it failed; of ``static``, why it is not dynamic.
    """

    format: str
    status: Literal["dynamic", "static", "failed"]
    step: int = 1
    parity: tuple[ShapeParity, ...] = ()
    bytes: int | None = None
    seconds: float = 0.0
    reason: str = ""


class Entry(Struct, frozen=True):
    """One config.

    Attributes:
        family: the folder it lies in.
        config: its name, as ``segdeploy export`` takes it.
        outcome: ``exported`` where every format passed; ``not available`` where its packages are not installed here;
            ``not supported`` where segdeploy refuses the model; ``failed`` otherwise.
        reason: why it is not ``exported``.
        parameters: how many the model has.
        formats: the results; empty where there is no model.
        seconds: of the whole process.
        peak_rss_bytes: its largest resident memory, as far as it was sampled.
    """

    family: str
    config: str
    outcome: Outcome
    reason: str = ""
    parameters: int | None = None
    formats: tuple[FormatResult, ...] = ()
    seconds: float = 0.0
    peak_rss_bytes: int = 0


class ZooReport(Struct, frozen=True):
    """The content of ``zoo.json``.

    Attributes:
        schema: 1.
        updated: when the last entry was made, ISO 8601 with the offset.
        command: what was typed.
        machine: in words.
        packages: version of each package that has a part in it.
        formats: that were asked for.
        timeout_s: for one config.
        memory_bytes: for one config.
        entries: by family.
    """

    schema: int
    updated: str
    command: str
    machine: str
    packages: dict[str, str]
    formats: tuple[str, ...]
    timeout_s: float
    memory_bytes: int
    entries: tuple[Entry, ...] = ()


def read_report(path: Path) -> ZooReport:
    """Read what ``run_zoo`` wrote.

    Raises:
        InputError: it is not a report.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=ZooReport)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(
            expected=f"a report of segdeploy zoo at '{path}'", got=str(error), fix="choose another --out, or remove it"
        ) from error
