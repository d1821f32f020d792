"""What the manifest of a TensorRT engine tells: the profile for a shape, and the commands that build the engine again."""

from __future__ import annotations

import math
import shlex

from segdeploy.artifact.manifest import Engine, Manifest, Profile

# The engine's parent lies beside it: the one file that another GPU's engine can be built from without PyTorch.
ONNX_NAME = "model.onnx"
# Not model.engine: the manifest holds that one's hash, and would refuse another build of it.
_BUILT_NAME = "trtexec.engine"


def choose_profile(engine: Engine, shape: tuple[int, int, int]) -> int | None:
    """The index of the profile to run a shape with.

    Args:
        engine: of the manifest.
        shape: (N, H, W).

    Returns:
        Of those that take the shape, the one that is tuned for the nearest; None where none takes it.
    """
    fitting = [index for index, profile in enumerate(engine.profiles) if _takes(profile, shape)]
    return min(fitting, key=lambda index: _distance(engine.profiles[index].opt, shape), default=None)


def has_fixed_shape(engine: Engine) -> bool:
    """Whether the engine takes one shape only."""
    first, *others = engine.profiles
    return not others and first.min == first.max


def profile_text(profile: Profile) -> str:
    """MIN:OPT:MAX as ``--profile`` takes it, each NxHxW; one of them where they are equal."""
    parts = ["x".join(map(str, shape)) for shape in (profile.min, profile.opt, profile.max)]
    return parts[0] if profile.min == profile.max else ":".join(parts)


def trtexec_command(manifest: Manifest) -> str:
    """The line for NVIDIA's own tool that compiles the same ONNX file with the same settings, run in the artifact's folder.

    The flags are those of ``trtexec --help`` of TensorRT 10, of the guide for the move from 10 to 11, and of TensorRT-RTX's
    guide to ahead-of-time builds, where the tool is called ``tensorrt_rtx``. That guide does not name ``--noTF32``,
    ``--memPoolSize`` and ``--profile``, which are taken to be the same. The tools are in no wheel: no line was run.
    """
    assert manifest.engine is not None
    engine, tools = manifest.engine, manifest.toolchain
    rtx = tools.tensorrt_flavour == "tensorrt_rtx"
    words = ["tensorrt_rtx" if rtx else "trtexec", f"--onnx={ONNX_NAME}", f"--saveEngine={_BUILT_NAME}", "--skipInference"]
    words.append("--noTF32")
    if engine.typing == "weak":
        words += [] if manifest.precision == "fp32" else [f"--{manifest.precision}"]
    elif not rtx and (tools.tensorrt or "").startswith("10."):
        words.append("--stronglyTyped")  # version 11 knows nothing else
    if rtx and manifest.target is not None:
        words.append(f"--computeCapabilities={(manifest.target.compute_capability or '').replace('sm', '')}")
    if engine.workspace_bytes is not None:
        words.append(f"--memPoolSize=workspace:{engine.workspace_bytes >> 20}")
    if not has_fixed_shape(engine):  # the tool refuses shapes for a graph that has none to choose
        for index, profile in enumerate(engine.profiles):
            words += [f"--profile={index}"] if len(engine.profiles) > 1 else []
            words += [
                f"--{name}Shapes={manifest.input.name}:{'x'.join(map(str, shape))}x3"
                for name, shape in (("min", profile.min), ("opt", profile.opt), ("max", profile.max))
            ]
    return shlex.join(words)


def _takes(profile: Profile, shape: tuple[int, int, int]) -> bool:
    return all(low <= size <= high for low, size, high in zip(profile.min, shape, profile.max, strict=True))


def _distance(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    return sum(abs(math.log(a / b)) for a, b in zip(one, other, strict=True))
