"""Bilinear upsampling, the shift of a convolution's taps and its zero padding, as one matrix for an axis."""

from __future__ import annotations

import torch
from torch import Tensor


def banded(size: int, out_size: int, taps: int, like: Tensor, *, align_corners: bool) -> Tensor:
    """What one axis of a convolution sees of a map that is upsampled along it: [out_size, taps * size].

    Row i has, for tap t and source sample r, the share of r in sample ``i + t - taps // 2`` of the upsampled axis, and zeros
    where that lies outside it. Two entries of a tap are not zero at most.

    The source of a sample is computed in float32 in the order of ATen/native/UpSample.h, ``area_pixel_compute_source_index``:
    what torch's own upsampling does, at every size.

    Args:
        size: samples of the map.
        out_size: samples of the upsampled map.
        taps: of the convolution along the axis, an odd number.
        like: for the device and the type of the result.
        align_corners: as in ``torch.nn.functional.interpolate``.
    """
    tap = torch.arange(taps, device=like.device)[None, :] - taps // 2
    place = torch.arange(out_size, device=like.device)[:, None] + tap
    inside = torch.logical_and(place >= 0, place < out_size)
    one = torch.ones(1, 1, device=like.device)
    if align_corners:
        at = place * (one * (size - 1) / torch.clamp(one * (out_size - 1), min=1))
    else:
        at = (place + 0.5) * (one * size / out_size) - 0.5
    at = torch.minimum(torch.clamp(at, min=0), one * (size - 1))
    source = torch.arange(size, device=like.device)
    share = torch.clamp(1 - torch.abs(at[:, :, None] - source), min=0)
    return (share * inside[:, :, None]).reshape(out_size, taps * size).to(like.dtype)
