"""Replacements of modules and functions that no exporter gets right, each exact, each with its reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def exact_adaptive_avg_pool2d(x: Tensor, output_size: Any) -> Tensor:
    """``functional.adaptive_avg_pool2d`` as two matrix products, so that it exports with dynamic sizes.

    The stock exporters bake the bins of the example's size in and are silently wrong at any other. Here the weights are
    computed from the tensor's own shape: output cell i of k averages ``floor(i*n/k) .. ceil((i+1)*n/k)`` of n inputs
    (ATen/native/AdaptivePooling.h). The mean of a rectangle is the mean over rows of the mean over columns.

    Args:
        x: [N, C, H, W].
        output_size: as torch takes it: a number, or (height, width) where None keeps an axis.
    """
    height, width = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    if height is not None:
        x = torch.matmul(_bins(x.shape[2], height, x), x)
    if width is not None:
        x = torch.matmul(x, _bins(x.shape[3], width, x).transpose(0, 1))
    return x


class ExactAdaptiveAvgPool2d(nn.Module):
    """``nn.AdaptiveAvgPool2d`` by ``exact_adaptive_avg_pool2d``."""

    def __init__(self, output_size: int | tuple[int | None, int | None] | None) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, height, width]."""
        return exact_adaptive_avg_pool2d(x, self.output_size)


def _bins(size: int, cells: int, like: Tensor) -> Tensor:
    """The averaging matrix [cells, size]: row i is 1/length over its bin and 0 elsewhere."""
    # Integer arithmetic on int64 is exact; the position axis is what carries the dynamic size.
    at = torch.arange(size, device=like.device)[None, :]
    cell = torch.arange(cells, device=like.device)[:, None]
    start = torch.div(cell * size, cells, rounding_mode="floor")
    end = torch.div((cell + 1) * size + (cells - 1), cells, rounding_mode="floor")
    inside = torch.logical_and(at >= start, at < end).to(like.dtype)
    return inside / (end - start).to(like.dtype)


class ExactUpsample(nn.Module):
    """mmseg's ``Upsample`` by a whole factor.

    mmseg computes the size in floats, ``int(side * 2.0)``: a traced graph holds the example's size, and the ONNX exporter
    one that is off at others. A product of whole numbers stays exact and dynamic.
    """

    def __init__(self, factor: int, mode: str, align_corners: bool | None) -> None:
        super().__init__()
        self.factor, self.mode, self.align_corners = factor, mode, align_corners

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, factor * H, factor * W]."""
        size = (x.shape[2] * self.factor, x.shape[3] * self.factor)
        return functional.interpolate(x, size, mode=self.mode, align_corners=self.align_corners)


class ExactDynamicFilter(nn.Module):
    """DMNet's ``DCM``: a depthwise filter that is computed from the image itself.

    mmseg folds the batch into the channels and takes N * C groups, which no format can express for a dynamic N. A filter of
    k x k taps is the sum of k * k shifted products.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, channels, H, W]."""
        module, taps = self.module, self.module.filter_size
        filters = module.filter_gen_conv(exact_adaptive_avg_pool2d(x, taps))
        x = module.input_redu_conv(x)
        height, width = x.shape[2:]
        after = (taps - 1) // 2
        before = taps - 1 - after
        padded = functional.pad(x, (before, after, before, after))
        out = torch.zeros_like(x)
        for row in range(taps):
            for column in range(taps):
                shifted = padded[:, :, row : row + height, column : column + width]
                out = out + shifted * filters[:, :, row : row + 1, column : column + 1]
        out = module.activate(out if module.norm is None else module.norm(out))
        return module.fusion_conv(out) if module.fusion else out


class ExactAdaptivePadding(nn.Module):
    """mmseg's ``AdaptivePadding`` of vision transformers, in whole numbers.

    mmseg divides as floats, rounds up, and asks whether there is anything to pad: a traced graph holds the example's padding,
    and torch.export works for many minutes on the symbolic fractions that follow from it.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.kernel, self.stride, self.dilation = module.kernel_size, module.stride, module.dilation
        self.corner = module.padding == "corner"

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W], with rows and columns of zeros as the kernel needs them."""
        below, right = (self._missing(x.shape[2 + axis], axis) for axis in (0, 1))
        if self.corner:
            return functional.pad(x, (0, right, 0, below))
        return functional.pad(x, (right // 2, right - right // 2, below // 2, below - below // 2))

    def _missing(self, side: int, axis: int) -> Any:
        stride, reach = self.stride[axis], (self.kernel[axis] - 1) * self.dilation[axis] + 1
        steps = (side + stride - 1) // stride
        missing = (steps - 1) * stride + reach - side
        # A kernel that reaches as far as its stride never ends before the image does.
        return missing if reach >= stride else torch.sym_max(missing, 0)


class ExactShiftedWindows(nn.Module):
    """Swin's ``ShiftWindowMSA``, in whole numbers and without assignments in place.

    mmseg finds the batch size by dividing as floats, fills the attention mask slice by slice, and asks whether it has padded:
    each ties a graph to the example's size, or costs torch.export many minutes.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.attention, self.drop = module.w_msa, module.drop
        self.window, self.shift = module.window_size, module.shift_size

    def forward(self, query: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """[N, H * W, C] to the same."""
        (height, width), window = hw_shape, self.window
        count, channels = query.shape[0], query.shape[2]
        rows, columns = (height + window - 1) // window, (width + window - 1) // window
        x = query.reshape(count, height, width, channels)
        x = functional.pad(x, (0, 0, 0, columns * window - width, 0, rows * window - height))
        mask = None
        if self.shift:
            x = _rolled(_rolled(x, self.shift, 1), self.shift, 2)
            mask = self._mask(rows, columns, x)
        x = x.reshape(count, rows, window, columns, window, channels).permute(0, 1, 3, 2, 4, 5)
        x = self.attention(x.reshape(count * rows * columns, window * window, channels), mask=mask)
        x = x.reshape(count, rows, columns, window, window, channels).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(count, rows * window, columns * window, channels)
        if self.shift:
            x = _rolled(_rolled(x, -self.shift, 1), -self.shift, 2)
        return self.drop(x[:, :height, :width].reshape(count, height * width, channels))

    def _mask(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """0 where two pixels of a window belong together, -100 where only the roll brought them there: [windows, L, L]."""
        window = self.window

        def regions(cells: int) -> Tensor:
            at = torch.arange(cells * window, device=like.device)
            return (at >= (cells - 1) * window).long() + (at >= cells * window - self.shift).long()

        region = 3 * regions(rows)[:, None] + regions(columns)[None, :]
        region = region.reshape(rows, window, columns, window).permute(0, 2, 1, 3).reshape(rows * columns, window * window)
        return -100.0 * (region[:, None, :] != region[:, :, None]).to(like.dtype)


def _rolled(x: Tensor, shift: int, axis: int) -> Tensor:
    """``torch.roll(x, -shift, axis)`` of two parts."""
    at = shift if shift > 0 else x.shape[axis] + shift
    return torch.cat([x.narrow(axis, at, x.shape[axis] - at), x.narrow(axis, 0, at)], axis)


def _view(x: Tensor, *shape: Any) -> Tensor:
    """``Tensor.view``, copying where it must.

    The graph's input is NHWC, and convolutions keep that order in memory, where some of mmseg's heads view the channels of
    what they think is NCHW. The values are the same; only the order in memory is not.
    """
    return x.view(*shape) if isinstance(shape[0], torch.dtype) else x.reshape(*shape)


_FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    functional.adaptive_avg_pool2d: exact_adaptive_avg_pool2d,
    Tensor.view: _view,
}


class ExactOps(TorchFunctionMode):
    """While it is entered, functions that a model calls directly, rather than as modules, are replaced too.

    And mmseg's ``resize`` does not warn of sizes that align badly: to find out it makes numbers of them, which ties an
    exported graph to the example's size.
    """

    def __enter__(self) -> ExactOps:
        """Begin."""
        from mmseg.models.utils import resize

        self._defaults = resize.__defaults__
        *others, _ = self._defaults
        resize.__defaults__ = (*others, False)
        super().__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        """End."""
        from mmseg.models.utils import resize

        super().__exit__(*exception)
        resize.__defaults__ = self._defaults

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the replacement where there is one."""
        del types
        return _FUNCTIONS.get(func, func)(*args, **(kwargs or {}))


def rewrite(model: Any) -> None:
    """Apply every replacement of a module to a model, in place."""
    from mmseg.models.backbones.swin import ShiftWindowMSA
    from mmseg.models.decode_heads.dm_head import DCM
    from mmseg.models.utils import Upsample
    from mmseg.models.utils.embed import AdaptivePadding

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.AdaptiveAvgPool2d):
                parent.register_module(name, ExactAdaptiveAvgPool2d(child.output_size))
            elif isinstance(child, DCM):
                parent.register_module(name, ExactDynamicFilter(child))
            elif isinstance(child, AdaptivePadding):
                parent.register_module(name, ExactAdaptivePadding(child))
            elif isinstance(child, ShiftWindowMSA):
                parent.register_module(name, ExactShiftedWindows(child))
            elif isinstance(child, Upsample) and not child.size and child.scale_factor == int(child.scale_factor):
                parent.register_module(name, ExactUpsample(int(child.scale_factor), child.mode, child.align_corners))
