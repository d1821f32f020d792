"""A checkpoint that nobody trained: to export a config, and to learn its latency, before there are weights for it.

It is a checkpoint file like any other, so that every command can hold an artifact against the very same weights. Its meta
says what it is.

The usual initialisation is made for training, and hides faults of an export: batch norm's fresh statistics let signals blow
up or vanish over depth, layer scales and position embeddings start at zero and switch their branches off, and the last
layer gives logits so small that any error lies within a tolerance. So every parameter that starts as a constant is drawn
at random, and the layers are scaled by what passes through them (layer-sequential unit variance, arXiv:1511.06422): one
pass over seeded noise sets the statistics of batch norm, and the weights of each convolution and linear layer so that
their outputs have power one. Residual branches are damped, as training would start them: a deep stack of undamped random
blocks is chaotic, and multiplies the rounding of its first layers a hundredfold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segdeploy.base.errors import ConfigError, SegdeployError
from segdeploy.base.files import new_file
from segdeploy.models.build import build_model
from segdeploy.models.checkpoint import RANDOM_WEIGHTS_KEY, Checkpoint, bare_checkpoint, load_checkpoint
from segdeploy.models.describe import crop_size, dataset_meta

_IMAGES = 4
# Sides to try, smallest first: some architectures need more, some take their training crop only.
_SIDES = (128, 256, 416)
# A global pooling leaves one value an image: no statistics of a channel can be taken from so few.
_ENOUGH_VALUES = 64
_RESIDUAL_GAIN = 0.25


def random_checkpoint_path(config: str, root: Path, name: str | None = None) -> Path:
    """Where the random weights of a config lie among the artifacts made from them; its folder's name says what they are."""
    return root / (name or f"{Path(config.rpartition('::')[2]).stem}-random") / "random-weights.pth"


def write_random_checkpoint(config: str, path: Path, *, seed: int = 0) -> Checkpoint:
    """Write a checkpoint of random weights; one of the same config and seed that lies there already is kept.

    Args:
        config: see ``segdeploy.models.configs.find_config``.
        path: of the .pth file.
        seed: of the weights.

    Raises:
        ConfigError: the config cannot be read or built, or its logits are constant with any weights.
        InputError: the file cannot be written.
    """
    import torch
    from mmengine.config import Config

    bare = bare_checkpoint(config)
    text = Config(dict(bare.config)).pretty_text
    meta = {"cfg": text, "dataset_meta": dataset_meta(bare), RANDOM_WEIGHTS_KEY: seed}
    if _is_there(path, meta):
        return load_checkpoint(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(bare)
        initialise(model, crop_size(bare.config))
    with new_file(path) as temporary, temporary.open("wb") as stream:
        torch.save({"meta": meta, "state_dict": model.state_dict()}, stream)
    return load_checkpoint(path)


def initialise(model: Any, crop: tuple[int, int]) -> None:
    """Draw and scale the weights of an mmseg model in eval mode, in place, from torch's random numbers.

    Args:
        model: as ``build_model`` makes it.
        crop: (H, W) that it is trained at.

    Raises:
        ConfigError: the model does not take its crop, or its logits do not vary.
    """
    import torch

    _draw_constants(model)
    _damp_residuals(model)
    size = smallest_size(model, crop)
    with torch.no_grad():
        with _Scaling(model):
            model(_noise(model, *size), mode="tensor")
        logits = model(_noise(model, *size), mode="tensor")
    _check_varied(logits[0] if isinstance(logits, tuple) else logits)


def smallest_size(model: Any, crop: tuple[int, int]) -> tuple[int, int]:
    """The smallest (H, W) out of some usual ones that a model takes: some take no less than their crop, or nothing else.

    Raises:
        ConfigError: not even that.
    """
    failure = None
    for size in [(side, side) for side in _SIDES if side < min(crop)] + [crop]:
        failure = _refusal(model, size)
        if failure is None:
            return size
    raise ConfigError(
        expected=f"a model that takes its own crop of {crop[0]}x{crop[1]}",
        got=f"{type(failure).__name__}: {str(failure).splitlines()[0]}",
        fix="check the config's 'model' and 'crop_size'",
    ) from failure


def _refusal(model: Any, size: tuple[int, int]) -> Exception | None:
    import torch

    try:
        with torch.no_grad():
            model(_noise(model, *size), mode="tensor")
    except (RuntimeError, AssertionError, ValueError) as error:
        return error
    return None


def _is_there(path: Path, meta: dict[str, Any]) -> bool:
    import torch

    if not path.is_file():
        return False
    try:
        return load_checkpoint(path).random_weights and torch.load(path, weights_only=True, mmap=True)["meta"] == meta
    except SegdeployError:
        return False


def _noise(model: Any, height: int, width: int) -> Any:
    """The network's input for images of coarse blobs and fine grain: flat noise averages out in the first layers."""
    import torch
    from mmseg.structures import SegDataSample
    from torch.nn import functional

    blobs = functional.interpolate(255 * torch.rand(_IMAGES, 3, 6, 6), size=(height, width), mode="bilinear")
    images = (blobs + 12 * torch.randn(_IMAGES, 3, height, width)).clamp(0, 255).byte()
    samples = [SegDataSample() for _ in images]
    return model.data_preprocessor({"inputs": list(images), "data_samples": samples})["inputs"]


def _draw_constants(model: Any) -> None:
    """Zeros and ones become random: a branch that starts switched off would otherwise never be compared."""
    import torch

    for parameter in model.parameters():
        values = parameter.data
        if not torch.isfinite(values).all():  # memory that nobody initialised
            values.normal_(0, 0.02)
        elif values.numel() and bool((values == values.flatten()[0]).all()):
            values.add_(0.2 * torch.randn_like(values) + (0.0 if values.flatten()[0] else 0.1))


def _damp_residuals(model: Any) -> None:
    for module in model.modules():
        last = _last_norm(module)
        if last is not None:
            last.weight.data.mul_(_RESIDUAL_GAIN)


def _last_norm(module: Any) -> Any:
    """The last norm of a residual block's branch; None where the module is no such block."""
    from mmseg.models.backbones.erfnet import NonBottleneck1d
    from mmseg.models.utils import InvertedResidual, InvertedResidualV3
    from torch.nn.modules.batchnorm import _BatchNorm

    if isinstance(module, NonBottleneck1d):
        return next(layer for layer in reversed(module.convs_layers) if isinstance(layer, _BatchNorm))
    if isinstance(module, InvertedResidual) and module.use_res_connect:
        return module.conv[-1].norm
    if isinstance(module, InvertedResidualV3) and module.with_res_shortcut:
        return module.linear_conv.norm
    # As all of mmseg's ResNets call it.
    return (getattr(module, "norm3", None) or getattr(module, "norm2", None)) if hasattr(module, "conv2") else None


class _Scaling:
    """While it is entered, the first call of every layer sets its weights or statistics by what passes through it."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._seen: set[Any] = set()
        self._hooks: list[Any] = []

    def __enter__(self) -> None:
        """Watch the layers."""
        from mmseg.models.decode_heads.knet_head import KernelUpdateHead
        from torch import nn
        from torch.nn.modules.batchnorm import _BatchNorm

        for module in self._model.modules():
            if isinstance(module, KernelUpdateHead):
                self._hooks.append(module.register_forward_hook(self._scale_kernels))
            elif isinstance(module, _BatchNorm) and module.running_mean is not None:
                self._hooks.append(module.register_forward_pre_hook(self._calibrate))
            elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                self._hooks.append(module.register_forward_hook(self._scale))

    def __exit__(self, *exception: object) -> None:
        """Watch them no longer."""
        for hook in self._hooks:
            hook.remove()

    def _calibrate(self, module: Any, inputs: tuple[Any, ...]) -> None:
        import torch

        if module in self._seen:
            return
        self._seen.add(module)
        x = inputs[0]
        axes = [axis for axis in range(x.dim()) if axis != 1]
        mean, var, power = x.mean(axes), x.var(axes, unbiased=False), x.square().mean()
        module.running_mean.copy_(mean)
        # A channel whose values lie close together must not be blown up: other images would then go through the roof.
        floor = 0.05 if x.numel() >= _ENOUGH_VALUES * len(mean) else 1.0
        module.running_var.copy_(torch.maximum(var, floor * power))

    def _scale(self, module: Any, inputs: tuple[Any, ...], output: Any) -> Any:  # noqa: ARG002  the hook's signature
        from torch import nn

        if module in self._seen:
            return output
        self._seen.add(module)
        axis = output.dim() - 1 if isinstance(module, nn.Linear) else 1
        if module.bias is not None and output.numel() >= _ENOUGH_VALUES * output.shape[axis]:
            mean = output.mean([one for one in range(output.dim()) if one != axis], keepdim=True)
            module.bias.sub_(mean.flatten())
            output = output - mean
        size = output.square().mean().sqrt().clamp(min=1e-6)
        module.weight.div_(size)
        if module.bias is not None:
            module.bias.div_(size)
        return output / size

    @staticmethod
    def _scale_kernels(module: Any, inputs: tuple[Any, ...], output: tuple[Any, Any]) -> tuple[Any, Any]:  # noqa: ARG004
        """K-Net's filters of power one give logits of a hundred, of which the next stage's softmax takes one and no other."""
        masks, kernels = output
        size = masks.square().mean().sqrt().clamp(min=1e-6)
        module.fc_mask.weight.div_(size)
        module.fc_mask.bias.div_(size)
        return masks / size, kernels


def _check_varied(logits: Any) -> None:
    """Parity of constant logits would prove nothing."""
    import torch

    labels = logits.argmax(1) if logits.shape[1] > 1 else logits > 0
    spread = logits.std((0, 2, 3)).median()
    if not torch.isfinite(logits).all() or spread < 1e-2 or len(labels.unique()) < 2:
        raise ConfigError(
            expected="a model whose logits vary from pixel to pixel with random weights",
            got=f"a spread of {float(spread):.1e} and {len(labels.unique())} label(s)",
            fix="train it, and export the checkpoint",
        )
