"""Randomness that depends on where a run is, never on how it came there: what makes a resumed run the same run.

A sample is augmented from (seed, visit, index) and a step draws its dropout from (seed, iteration, rank). Neither how often
the run was interrupted nor the number of loader workers changes what is drawn.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np


def seed_everything(*entropy: int) -> None:
    """Seed Python, NumPy and PyTorch (its CUDA generators included) from some integers, each combination differently."""
    import torch

    first, second, third, fourth = (int(word) for word in np.random.SeedSequence(entropy).generate_state(4))
    random.seed(first)
    np.random.seed(second)  # noqa: NPY002  the transforms of mmcv and mmseg draw from the global generator
    torch.manual_seed(third << 32 | fourth)


class SeededDataset:
    """A data set whose item ``visit * len + index`` is ``dataset[index]``, augmented from (seed, visit, index).

    Everything else is the wrapped data set's.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self._seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: int) -> Any:
        visit, index = divmod(draw, len(self.dataset))
        seed_everything(self._seed, visit, index)
        return self.dataset[index]

    def __getattr__(self, name: str) -> Any:
        if name == "dataset" or name.startswith("__"):  # while it is unpickled in a worker there is no data set yet
            raise AttributeError(name)
        return getattr(self.dataset, name)


class EpochSampler:
    """A sampler that ends, such as MMEngine's DefaultSampler; yields ``epoch * size + index``."""

    def __init__(self, sampler: Any, size: int) -> None:
        self._sampler = sampler
        self._size = size
        self._skipped = 0  # of the next epoch's draws

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[int]:
        offset = getattr(self._sampler, "epoch", 0) * self._size
        skipped, self._skipped = self._skipped, 0
        return (offset + index for index in itertools.islice(self._sampler, skipped, None))

    def begin_after(self, draws: int) -> None:
        """Leave out the next epoch's first draws. Not named ``skip``: by that MMEngine winds forward a stream."""
        self._skipped = draws

    def set_epoch(self, epoch: int) -> None:
        """The epoch that begins."""
        self._sampler.set_epoch(epoch)


class StreamSampler:
    """A sampler that never ends and can be wound forward, such as InfiniteSampler; yields ``visit * size + index``."""

    def __init__(self, sampler: Any, size: int) -> None:
        self._sampler = sampler
        self._size = size
        self._position = 0  # of this process' next draw, counted from the run's begin

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[int]:
        for index in self._sampler:
            # Processes take turns in one stream, and every `size` draws of it visit each sample once.
            visit = (self._position * self._sampler.world_size + self._sampler.rank) // self._size
            self._position += 1
            yield visit * self._size + index

    def skip(self, draws: int) -> None:
        """Go on after this process' first ``draws`` draws."""
        self._position = draws
        self._sampler.skip(draws)


def seeded_sampler(sampler: Any, size: int) -> EpochSampler | StreamSampler:
    """Wrap a sampler over ``size`` samples for a ``SeededDataset``."""
    return StreamSampler(sampler, size) if hasattr(sampler, "skip") else EpochSampler(sampler, size)
