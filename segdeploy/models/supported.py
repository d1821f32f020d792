"""How mmseg's models predict, and which of them segdeploy can follow exactly. Everything else is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segdeploy.artifact.manifest import Inference, Pad
from segdeploy.base.errors import ConfigError


def check_inference(model: Any) -> None:
    """Refuse what predicts in a way of its own: the graph would be another model."""
    from mmseg.models.decode_heads import DAHead, EncHead
    from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    kind = type(model).__name__
    if kind not in ("EncoderDecoder", "CascadeEncoderDecoder"):
        raise ConfigError(
            expected="an EncoderDecoder or a CascadeEncoderDecoder", got=f"a {kind}", fix="other segmentors are not supported"
        )
    head = model.decode_head[-1] if kind == "CascadeEncoderDecoder" else model.decode_head
    # DAHead and EncHead give their auxiliary outputs too, and predict by the first.
    known = [one.predict for one in (BaseDecodeHead, BaseCascadeDecodeHead, DAHead, EncHead)]
    ours = isinstance(head, BaseDecodeHead) and type(head).predict in known
    if not ours or type(head).predict_by_feat is not BaseDecodeHead.predict_by_feat:
        raise ConfigError(
            expected="a decode head that predicts by its logits, resized",
            got=f"a {type(head).__name__}, which predicts in its own way",
            fix="this head is not supported",
        )


def head_config(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of the head whose logits count: the last of a cascade, the one that K-Net's kernels start from."""
    head = model.get("decode_head")
    head = head[-1] if isinstance(head, (list, tuple)) else head or {}
    return head.get("kernel_generate_head") or head


def threshold(head: Mapping[str, Any]) -> float:
    """Of the sigmoid of a binary head."""
    value = head.get("threshold")
    return 0.3 if value is None else float(value)  # BaseDecodeHead's own default


def check_padded_slide(pad: Pad | None, inference: Inference) -> None:
    """The graph pads each crop, mmseg the whole image: the same thing only where a padded crop has the crop's size."""
    if pad is None or inference.crop is None:
        return
    if pad.size == inference.crop or (pad.divisor and not any(side % pad.divisor for side in inference.crop)):
        return
    raise ConfigError(
        expected="padding at test time to the crop of slide inference, or to a divisor of it",
        got=f"a crop of {inference.crop} and padding to {pad.size or f'multiples of {pad.divisor}'}",
        fix="set test_cfg.crop_size or data_preprocessor.test_cfg so that they fit",
    )


def fix_draws(model: Any, state_dict: Mapping[str, Any]) -> None:
    """Make a model predict the same twice.

    SegNeXt's head factorises its features from bases that it draws anew at every call (``rand_init``). A deployed model must
    not, so they are drawn once, from a seed. mmseg does the same with ``rand_init=False``, but forgets the bases that it was
    trained with: a checkpoint's own count.
    """
    import torch
    from mmseg.models.decode_heads.ham_head import Hamburger
    from torch.nn import functional

    for name, module in model.named_modules():
        if not isinstance(module, Hamburger):
            continue
        ham = module.ham
        trained = state_dict.get(f"{name}.ham.bases")
        if trained is None:
            depth = module.ham_in.conv.out_channels // ham.S
            drawn = torch.rand((ham.S, depth, ham.R), generator=torch.Generator().manual_seed(0))
            trained = functional.normalize(drawn, dim=1)
            ham.register_buffer("bases", trained, persistent=False)
        else:
            ham.register_buffer("bases", torch.empty_like(trained))
        ham.rand_init = False
