"""Convolving before upsampling, against mmseg's own modules and torch's own operations."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from segdeploy.export.restructure import ConvBeforeUpsampling, deferring, find, restructure
from segdeploy.export.restructure.conv import holds, products
from segdeploy.export.rewrites import ExactOps, rewrite
from segdeploy.models.packages import load_mmseg

NORM = {"type": "BN"}
COMMON = {"channels": 16, "num_classes": 5, "norm_cfg": NORM}
SEVERAL = {**COMMON, "in_channels": [8, 12, 16, 20], "in_index": [0, 1, 2, 3]}
ONE = {**COMMON, "in_channels": 48, "in_index": 3}
# What is found in each head, with the sizes of ``features``.
HEADS = {
    "UPerHead": (SEVERAL, {"bottleneck.conv", "fpn_bottleneck.conv"}),
    "SegformerHead": (SEVERAL, {"fusion_conv.conv"}),
    "PSPHead": (ONE, {"bottleneck.conv"}),
    "ASPPHead": ({**ONE, "dilations": (1, 3, 6)}, {"bottleneck.conv"}),
    "DepthwiseSeparableASPPHead": (
        {**ONE, "dilations": (1, 3), "c1_in_channels": 8, "c1_channels": 6},
        {"bottleneck.conv"},
    ),
    "FPNHead": (
        {**SEVERAL, "feature_strides": [4, 8, 16, 32]},
        {"scale_heads.2.2.conv", "scale_heads.3.2.conv", "scale_heads.3.4.conv"},
    ),
    "FCNHead": (
        {**SEVERAL, "input_transform": "resize_concat", "kernel_size": 1, "num_convs": 1, "concat_input": False},
        {"convs.0.conv"},
    ),
}
# Odd, not square, one row, one pixel, and with levels that are not halves of one another.
LEVELS = [
    [(32, 48), (16, 24), (8, 12), (4, 6)],
    [(31, 47), (16, 24), (8, 12), (4, 6)],
    [(13, 5), (7, 3), (4, 2), (2, 1)],
    [(8, 64), (4, 32), (2, 16), (1, 8)],
    [(1, 1), (1, 1), (1, 1), (1, 1)],
    [(83, 125), (42, 63), (21, 32), (11, 16)],
]


def features(levels, channels=(8, 12, 16, 20), count=1):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, c, *size, generator=generator) for c, size in zip(channels, levels, strict=True)]


def random_norms(model):
    """Statistics unlike those of an untrained batch norm."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                module.weight.data.uniform_(0.5, 2)
                module.bias.data.normal_()
    return model


class Runs(nn.Module):
    """A head as the deploy graph runs it."""

    def __init__(self, head):
        super().__init__()
        self.head, self.deferred, self.names = head, frozenset(), ()
        rewrite(self)

    def forward(self, *inputs):
        with ExactOps(), deferring(self.deferred):
            return self.head(list(inputs))

    def restructured(self, inputs):
        with torch.no_grad():
            found = find(self, lambda: self(*inputs))
        self.names = tuple(one.path.removeprefix("head.") for one in found)
        self.deferred = restructure(self, found)
        return self


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("kind", HEADS)
def test_a_head_is_mmsegs(kind, align_corners):
    """Whatever its class, found by what it does; the logits of mmseg's own module at sizes that it was not found with."""
    load_mmseg()
    from mmseg.models import decode_heads

    config, expected = HEADS[kind]
    torch.manual_seed(0)
    theirs = random_norms(getattr(decode_heads, kind)(**config, align_corners=align_corners)).eval()
    channels = (8, 12, 16, 20) if config["in_channels"] != 48 else (8, 12, 16, 48)
    # Found at a size at which it pays: where maps are pooled, the larger the better; else, with so few channels, a small one.
    sizes = [(128, 128), (64, 64), (32, 32), (16, 16)] if hasattr(theirs, "bottleneck") else LEVELS[0]
    ours = Runs(copy.deepcopy(theirs)).restructured(features(sizes, channels))
    assert set(ours.names) == expected
    for count, levels in enumerate(LEVELS, 1):
        inputs = features(levels, channels, 1 + count % 2)
        with torch.no_grad():
            wanted, found = theirs(inputs), ours(*inputs)
        torch.testing.assert_close(found, wanted, atol=5e-6 * max(1, float(wanted.abs().max())), rtol=0, msg=str(levels))


class Fusion(nn.Module):
    """A convolution over a map and two that are upsampled; what else reads them is told by ``also``."""

    def __init__(self, conv, norm=None, also="nothing", mode="bilinear"):
        super().__init__()
        self.conv, self.norm, self.also, self.mode = conv, norm or nn.Identity(), also, mode

    def forward(self, first, second, third):
        size = first.shape[2:]
        align = None if self.mode == "nearest" else False
        second, third = (functional.interpolate(x, size, mode=self.mode, align_corners=align) for x in (second, third))
        maps = torch.cat([second, first, third], 1)
        made = self.conv(maps)
        out = self.norm(made)
        if self.also == "the maps":
            return out + maps.mean()
        if self.also == "an upsampled map":
            return out + third.mean()
        if self.also == "the output":
            return out + made
        return out + self.conv(maps * 2) if self.also == "the convolution" else out


def fused(conv, norm=None, **how):
    """The fusion as it was, and restructured, with what was found."""
    torch.manual_seed(0)
    plain = random_norms(Fusion(conv, norm, **how)).eval()
    runs = Runs(copy.deepcopy(plain))
    runs.forward = lambda *inputs: _deferred(runs, inputs)
    return plain, runs


def _deferred(runs, inputs):
    with deferring(runs.deferred):
        return runs.head(*inputs)


MAPS = [(24, 20), (6, 5), (3, 3)]


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", [None, nn.BatchNorm2d(7), nn.BatchNorm2d(7, affine=False)])
def test_taps_bias_and_norm(kernel, bias, norm):
    """Of any odd kernel; the maps keep their places among the channels, and the norm goes into the weights."""
    plain, runs = fused(nn.Conv2d(4 + 30 + 31, 7, kernel, padding=kernel // 2, bias=bias), copy.deepcopy(norm))
    inputs = features(MAPS, (4, 30, 31), count=2)
    runs.restructured(inputs)
    assert runs.names == ("conv",)
    assert isinstance(runs.head.conv, ConvBeforeUpsampling)
    assert len(runs.deferred) == 2
    assert norm is None or isinstance(runs.head.norm, nn.Identity)
    for sizes in (MAPS, [(25, 13), (7, 4), (1, 1)], [(5, 6), (5, 6), (9, 8)]):
        inputs = features(sizes, (4, 30, 31), count=3)
        with torch.no_grad():
            torch.testing.assert_close(runs(*inputs), plain(*inputs), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(65, 65, 3, padding=1, groups=65),
        nn.Conv2d(65, 7, 3, padding=2, dilation=2),
        nn.Conv2d(65, 7, 3, padding=1, stride=2),
        nn.Conv2d(65, 7, 3),
        nn.Conv2d(65, 7, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(65, 7, 2, padding=1),
        nn.Conv2d(65, 7, (3, 1), padding=(1, 0)),
        nn.Conv2d(65, 7, 3, padding="same"),
    ],
)
def test_what_it_is_not_written_for_is_left(conv):
    """Groups, dilation, stride, other padding, even and rectangular kernels: the module stays, and so do the upsamplings."""
    assert not holds(conv)
    _, runs = fused(conv)
    runs.restructured(features(MAPS, (4, 30, 31)))
    assert (runs.names, runs.deferred) == ((), frozenset())
    assert type(runs.head.conv) is nn.Conv2d


@pytest.mark.parametrize("also", ["the maps", "an upsampled map", "the convolution"])
def test_what_others_read_is_made(also):
    """A map that something else needs is upsampled as it was; so is everything of a convolution that is called twice."""
    plain, runs = fused(nn.Conv2d(65, 7, 3, padding=1), also=also)
    inputs = features(MAPS, (4, 30, 31))
    runs.restructured(inputs)
    assert runs.names == ()
    with torch.no_grad():
        assert torch.equal(runs(*inputs), plain(*inputs))


def test_a_concatenation_that_is_made_anyway_may_have_other_readers():
    """FastFCN: a neck puts its maps side by side, and the head reads these again for each of its pools."""

    class Neck(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(65, 7, 3, padding=1)

        def forward(self, first, second, third):
            made = torch.cat([first, third], 1)
            pooled = functional.interpolate(second, made.shape[2:], mode="bilinear") + 0 * made.mean()
            up = functional.interpolate(second, made.shape[2:], mode="bilinear")
            return self.conv(torch.cat([made, up], 1)) + pooled.mean()

    torch.manual_seed(0)
    runs = Runs(Neck())
    runs.forward = lambda *inputs: _deferred(runs, inputs)
    inputs = features([(24, 20), (6, 5), (24, 20)], (4, 30, 31))
    with torch.no_grad():
        wanted = copy.deepcopy(runs.head)(*inputs)
        runs.restructured(inputs)
        assert runs.names == ("conv",)
        torch.testing.assert_close(runs(*inputs), wanted, atol=1e-5, rtol=0)


def test_a_norm_that_is_not_alone_stays():
    """Where something else reads the convolution's output, the norm is not folded in."""
    plain, runs = fused(nn.Conv2d(65, 7, 3, padding=1), nn.BatchNorm2d(7), also="the output")
    inputs = features(MAPS, (4, 30, 31))
    runs.restructured(inputs)
    assert runs.names == ("conv",)
    assert isinstance(runs.head.norm, nn.BatchNorm2d)
    with torch.no_grad():
        torch.testing.assert_close(runs(*inputs), plain(*inputs), atol=1e-5, rtol=0)


def test_what_does_not_pay_is_left():
    """Few channels, or maps that are hardly smaller: more products than before. Nearest upsampling is none of it."""
    few, same = (4, 1, 1), [(24, 20)] * 3
    many = (4, 30, 31)
    for sizes, channels, mode in ((MAPS, few, "bilinear"), (same, many, "bilinear"), (MAPS, many, "nearest")):
        _, runs = fused(nn.Conv2d(sum(channels), 7, 3, padding=1), mode=mode)
        assert runs.restructured(features(sizes, channels)).names == ()


def test_products():
    """UPerNet's first upsampled level at 512x512: 38.7 GMAC of convolution, a quarter of it at the level's own size."""
    plain, before = products(3, 512, 512, (64, 64), (128, 128))
    assert plain == 9 * 512 * 512 * 128 * 128
    assert before == plain // 4 + 512 * (9 * 64 * 64 * 128 + 3 * 128 * 64 * 128)


def test_tokens_are_no_maps():
    """A transformer puts its class token before the others, along the same axis as channels: the search goes on behind it."""
    plain, _ = fused(nn.Conv2d(65, 7, 3, padding=1))
    inputs = features(MAPS, (4, 30, 31))

    def run():
        torch.cat((torch.zeros(1, 1, 4), torch.zeros(1, 6, 4)), dim=1)
        plain(*inputs)

    assert [one.path for one in find(plain, run)] == [one.path for one in find(plain, lambda: plain(*inputs))] == ["conv"]
