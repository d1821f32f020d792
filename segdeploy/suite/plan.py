"""What a suite is made of: a model, and every way to export it."""

from __future__ import annotations

from dataclasses import dataclass

from segdeploy.artifact.manifest import FORMATS, Format, Precision
from segdeploy.base.errors import InputError
from segdeploy.export.exporter import find_exporter

_CONFIG = "mmseg::upernet/upernet_{}_4xb4-20k_voc12aug-512x512"


@dataclass(frozen=True)
class Suite:
    """A model to measure.

    Attributes:
        name: of the suite, and of its artifacts.
        config: mmseg's, which is taken with random weights where no checkpoint is named.
        size: (H, W) of the network's input.
        cpu_batches: N to measure where there is no GPU.
        gpu_batches: N to measure on one; exports are optimised for the middle one.
    """

    name: str
    config: str
    size: tuple[int, int] = (512, 512)
    cpu_batches: tuple[int, ...] = (1,)
    gpu_batches: tuple[int, ...] = (1, 8, 32)


SUITES = {
    suite.name: suite
    for suite in (Suite(f"upernet-{backbone}", _CONFIG.format(backbone)) for backbone in ("r18", "r50", "r101"))
}


@dataclass(frozen=True)
class Recipe:
    """One export of a suite.

    Attributes:
        fmt: its format.
        precision: of its arithmetic.
        restructured: convolutions come before upsampling where that pays; the plain graph otherwise.
    """

    fmt: Format
    precision: Precision
    restructured: bool

    def name(self, suite: str) -> str:
        """Of the artifact: which graph it is, beside the format and the precision, which it says itself."""
        return suite if self.restructured else f"{suite}-plain"


def recipes(formats: tuple[str, ...] = ()) -> list[Recipe]:
    """Every format in each of its precisions, restructured and plain.

    Args:
        formats: of these only; none for all.
    """
    return [
        Recipe(fmt, precision, restructured)
        for fmt in FORMATS
        if not formats or fmt in formats
        for precision in find_exporter(fmt).precisions
        for restructured in (True, False)
    ]


def find_suite(name: str) -> Suite:
    """The suite of a name.

    Raises:
        InputError: there is none.
    """
    if name not in SUITES:
        raise InputError(expected=f"a suite out of {', '.join(SUITES)}", got=f"'{name}'", fix="choose one of these")
    return SUITES[name]
