"""What a replacement is, and what a part of a model demands of the example that it is traced with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Demands:
    """What a part of a model demands of the example that torch.export traces it with.

    Attributes:
        beyond: pixels that the example's sides exceed. Up to there the part sees one window or one pixel alone, and
            torch.export takes it that what is one in the example is one at every size.
        named_axes: whether an axis may be a named dimension. torch.export refuses that where it has noted any condition on it.
    """

    beyond: int = 0
    named_axes: bool = True

    def __or__(self, other: Demands) -> Demands:
        """Those of both."""
        return Demands(max(self.beyond, other.beyond), self.named_axes and other.named_axes)


NOTHING = Demands()


@dataclass(frozen=True)
class Rewrite:
    """What is done with the modules of one class.

    Attributes:
        kind: the class.
        make: makes the replacement of a module; None leaves it as it is.
        applies: whether this is the module that the replacement is for.
        demands: of a module, before it is replaced.
    """

    kind: type[nn.Module]
    make: Callable[[Any], nn.Module] | None
    applies: Callable[[Any], bool] = lambda _: True
    demands: Callable[[Any], Demands] = lambda _: NOTHING


class Rewritten(nn.Module):
    """A replacement that has the children and weights of the module that it replaces, under the same names.

    So every path of the model stays mmseg's own: in the graph's node names, in attribution, in the checkpoint.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._modules, self._parameters, self._buffers = module._modules, module._parameters, module._buffers  # noqa: SLF001
        # Not a child: its paths would be a level deeper.
        self.__dict__["original"] = module
        self.train(module.training)
