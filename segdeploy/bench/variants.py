"""Ways to run one artifact that are rows of their own: of the checkpoint with PyTorch's own means, of any on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from segdeploy.artifact.folder import Artifact
from segdeploy.base.errors import BackendError
from segdeploy.runtime.backends.torch_device import import_torch
from segdeploy.runtime.session import Session

EagerVariation: TypeAlias = Literal["channels_last", "compile", "tf32"]
Variation: TypeAlias = EagerVariation | Literal["cpu"]
EAGER_VARIATIONS: tuple[EagerVariation, ...] = get_args(EagerVariation)
# As --backend and the tables have them.
EAGER_NAMES = ("eager", *(f"eager-{one}" for one in EAGER_VARIATIONS))


@dataclass(frozen=True)
class Variant(Artifact):
    """An artifact that is run in another way than its backend would.

    Attributes:
        variation: ``channels_last``: the weights, and so the activations, in NHWC. ``compile``: ``torch.compile`` of the
            backbone, the neck and the heads. ``tf32``: on CUDA, where fp32 rows have it off. ``cpu``: not on the GPU.
    """

    variation: Variation


def variation_of(candidate: object) -> Variation | None:
    """What is special in how it is run; None where nothing is."""
    return candidate.variation if isinstance(candidate, Variant) else None


def adapt(session: Session, variation: Variation) -> None:
    """Make a session, before its first call, run in the way of a variation. ``cpu`` is the device that it was opened on.

    Raises:
        BackendError: TF32 was asked for where there is none.
    """
    if variation == "cpu":
        return
    torch = import_torch("eager")
    model: Any = session.model  # type: ignore[attr-defined]  # eager variations are made of eager artifacts alone
    if variation == "tf32":
        if not session.device.startswith("cuda"):
            raise BackendError(expected="a CUDA device for TF32", got=session.device, fix="leave eager-tf32 out")
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    elif variation == "channels_last":
        model.to(memory_format=torch.channels_last)
    else:
        # mmseg calls ``forward`` of its heads from ``predict``: compiling the module's call would leave them as they are.
        for part in _parts(model):
            part.forward = torch.compile(part.forward)


def _parts(model: Any) -> list[Any]:
    head = model.decode_head
    neck = [model.neck] if getattr(model, "with_neck", False) else []
    return [model.backbone, *neck, *(head if hasattr(head, "__iter__") else [head])]
