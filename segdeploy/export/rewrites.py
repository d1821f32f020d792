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
        return ((side + stride - 1) // stride - 1) * stride + reach - side


class ExactPaddedConv(nn.Module):
    """mmcv's ``Conv2dAdaptivePadding``, which begins MobileNetV3. It pads as ``AdaptivePadding`` does, with the same fault."""

    def __init__(self, conv: Any) -> None:
        super().__init__()
        self.conv, self.pad = conv, ExactAdaptivePadding(conv)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, channels, H / stride, W / stride], rounded up."""
        return nn.Conv2d.forward(self.conv, self.pad(x))  # not mmcv's, which would pad again


def _leaves_no_gaps(padding: Any) -> bool:
    """Whether a kernel reaches as far as its stride, as all of mmseg's do: then it never ends before the image does."""
    kernels = zip(padding.kernel_size, padding.dilation, padding.stride, strict=True)
    return all((kernel - 1) * dilation + 1 >= stride for kernel, dilation, stride in kernels)


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
            # A mask for each image, not one that is broadcast: which side has one window alone is not known beforehand.
            mask = self._mask(rows, columns, x)[None].expand(count, -1, -1, -1).reshape(-1, window**2, window**2)
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


class ExactInterlacedHead(nn.Module):
    """ISANet's ``ISAHead``, in whole numbers.

    mmseg divides as floats, rounds up in Python, and pads only where it must: a traced graph holds the example's groups.
    """

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head = head

    def forward(self, inputs: Any) -> Tensor:
        """Feature maps of the backbone to logits [N, K, h, w]."""
        head = self.head
        x = residual = head.in_conv(head._transform_inputs(inputs))  # noqa: SLF001  as every head of mmseg begins
        count, channels, height, width = x.shape
        tall, wide = head.down_factor
        rows, columns = (height + tall - 1) // tall, (width + wide - 1) // wide
        below, right = rows * tall - height, columns * wide - width
        top, left = below // 2, right // 2
        x = functional.pad(x, (left, right - left, top, below - top))
        x = x.reshape(count, channels, rows, tall, columns, wide).permute(0, 3, 5, 1, 2, 4)
        x = head.global_relation(x.reshape(count * tall * wide, channels, rows, columns))
        x = x.reshape(count, tall, wide, channels, rows, columns).permute(0, 4, 5, 3, 1, 2)
        x = head.local_relation(x.reshape(count * rows * columns, channels, tall, wide))
        x = x.reshape(count, rows, columns, channels, tall, wide).permute(0, 3, 1, 4, 2, 5)
        x = x.reshape(count, channels, rows * tall, columns * wide)[:, :, top : top + height, left : left + width]
        logits: Tensor = head.cls_seg(head.out_conv(torch.cat([x, residual], dim=1)))
        return logits


class ExactKernelUpdate(nn.Module):
    """K-Net's ``KernelUpdateHead`` with kernels of 1x1: a filter for each image, computed from the image itself.

    mmseg convolves the images one by one in a Python loop, which ties a graph to the example's N, and asks in Python whether
    sizes differ. A 1x1 convolution is a matrix product, and takes a batch.
    """

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor, kernels: Tensor, masks: Tensor, mask_shape: None = None) -> tuple[Tensor, Tensor]:
        """[N, C, H, W], kernels [N, K, C, 1, 1] and masks [N, K, h, w] to new masks [N, K, H, W] and kernels."""
        assert mask_shape is None  # mmseg's decode head never passes one
        head = self.head
        if head.feat_transform is not None:
            x = head.feat_transform(x)
        count, channels, height, width = x.shape
        classes = kernels.shape[1]
        masks = functional.interpolate(masks, (height, width), mode="bilinear", align_corners=False)
        pooled = torch.matmul(masks.softmax(dim=1).flatten(2), x.flatten(2).transpose(1, 2))
        found = head.kernel_update_conv(pooled, kernels.reshape(count, classes, channels, 1).permute(0, 1, 3, 2))
        found = head.attention_norm(head.attention(found.reshape(count, classes, channels).permute(1, 0, 2))).permute(1, 0, 2)
        found = found.reshape(count, classes, 1, channels)
        if head.with_ffn:
            found = head.ffn_norm(head.ffn(found))
        filters = found
        for layer in head.mask_fcs:
            filters = layer(filters)
        filters = head.fc_mask(filters).reshape(count, classes, channels)
        new = torch.matmul(filters, x.flatten(2)).reshape(count, classes, height, width)
        return new, found.reshape(count, classes, channels, 1, 1)


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
    replacements = _replacements()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            for kind, applies, replacement in replacements:
                if isinstance(child, kind) and applies(child):
                    parent.register_module(name, replacement(child))


def _replacements() -> list[tuple[type[nn.Module], Callable[[Any], bool], Callable[[Any], nn.Module]]]:
    """What is replaced, on which condition, and by what."""
    from mmcv.cnn.bricks import Conv2dAdaptivePadding
    from mmseg.models.backbones.swin import ShiftWindowMSA
    from mmseg.models.decode_heads.dm_head import DCM
    from mmseg.models.decode_heads.isa_head import ISAHead
    from mmseg.models.decode_heads.knet_head import KernelUpdateHead
    from mmseg.models.utils import Upsample
    from mmseg.models.utils.embed import AdaptivePadding

    def always(_: Any) -> bool:
        return True

    def by_whole_factor(module: Any) -> bool:
        return not module.size and bool(module.scale_factor == int(module.scale_factor))

    def of_one_pixel(module: Any) -> bool:
        return (module.conv_kernel_size, module.mask_transform_stride) == (1, 1)

    return [
        (nn.AdaptiveAvgPool2d, always, lambda module: ExactAdaptiveAvgPool2d(module.output_size)),
        (Upsample, by_whole_factor, lambda m: ExactUpsample(int(m.scale_factor), m.mode, m.align_corners)),
        (AdaptivePadding, _leaves_no_gaps, ExactAdaptivePadding),
        (Conv2dAdaptivePadding, _leaves_no_gaps, ExactPaddedConv),
        (ShiftWindowMSA, always, ExactShiftedWindows),
        (DCM, always, ExactDynamicFilter),
        (ISAHead, always, ExactInterlacedHead),
        (KernelUpdateHead, of_one_pixel, ExactKernelUpdate),
    ]


def smallest_regular_side(graph: nn.Module) -> int:
    """Pixels of an image's side up to which a part of a model sees one window or one pixel alone.

    torch.export takes it that what is one in the example is one at every size.
    """
    from mmseg.models.utils import DAPPM

    side = 0
    for module in graph.modules():
        if isinstance(module, ExactShiftedWindows):
            side = max(side, 32 * int(module.window))  # a window of the last stage: patches of 4, three mergers of 2
        elif isinstance(module, DAPPM):
            side = max(side, 512)  # DDRNet and PIDNet pool by 8 at a stride of 64
    return side
