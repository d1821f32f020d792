"""``segdeploy inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from segdeploy.core.manifest import Manifest


@click.command("inspect")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The manifest itself.")
def command(artifact: Path, as_json: bool) -> None:
    """Show what ARTIFACT is, where it came from, and what was proven of it. Its files' hashes are checked."""
    from segdeploy.core.artifact import open_artifact
    from segdeploy.core.manifest import Bounds, encode_manifest

    opened = open_artifact(artifact)
    manifest = opened.manifest
    if as_json:
        click.echo(encode_manifest(manifest).decode(), nl=False)
        return

    def axis(value: int | Bounds) -> str:
        return f"{value.min}..{value.max} (best {value.opt})" if isinstance(value, Bounds) else str(value)

    lineage, tools, parity = manifest.lineage, manifest.toolchain, manifest.parity
    shape = ", ".join(f"{letter} {axis(value)}" for letter, value in zip("NHWC", manifest.input.shape, strict=True))
    versions = {
        "segdeploy": tools.segdeploy,
        "python": tools.python,
        "torch": tools.torch,
        "onnx": tools.onnx,
        tools.tensorrt_flavour or "tensorrt": tools.tensorrt,
    }
    facts = {
        "name": opened.name,
        "files": ", ".join(f"{file.path} ({file.bytes / 1e6:.1f} MB, sha256 {file.sha256[:12]})" for file in manifest.files),
        "input": f"{manifest.input.name} {manifest.input.dtype} [{shape}]",
        "outputs": ", ".join(f"{out.name} {out.dtype} [{', '.join(out.layout)}]" for out in manifest.outputs),
        "precision": manifest.precision,
        "resize": f"{manifest.preprocess.resize.mode} {manifest.preprocess.resize.scale or ''}".strip(),
        "inference": manifest.inference.mode,
        "classes": f"{len(manifest.classes)}: {', '.join(manifest.classes)}",
        "target": _target(manifest),
        "checkpoint": f"{lineage.checkpoint or 'none'} (sha256 {(lineage.checkpoint_sha256 or '-')[:12]})",
        "command": lineage.command or "not recorded",
        "made with": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "weights": "RANDOM: nobody trained this model, its labels mean nothing" if lineage.random_weights else "trained",
        "parity": "never verified" if parity is None else parity.verdict,
    }
    width = max(map(len, facts))
    for name, value in facts.items():
        first, *more = [value, *describe_quantization(manifest)] if name == "precision" else [value]
        click.echo(f"{name:<{width}}  {first}")
        for line in more:
            click.echo(f"{'':<{width}}  {line}")
    if parity is not None and parity.reason:
        click.echo(f"{'':<{width}}  {parity.reason}")
    if parity is not None and parity.shapes:
        worst = max(parity.shapes, key=lambda one: one.logits_max_abs)
        sizes = ", ".join("x".join(map(str, one.shape)) for one in parity.shapes)
        click.echo(
            f"{'':<{width}}  {parity.inputs}, {parity.device}; shapes {sizes}; worst logit error {worst.logits_max_abs:.1e}"
        )


def _target(manifest: Manifest) -> str:
    target = manifest.target
    if target is None:
        return "portable"
    found = (target.device if target.cpu else None, target.compute_capability, target.cpu)
    return ", ".join(part for part in found if part) or target.device


def describe_quantization(manifest: Manifest) -> list[str]:
    """How a precision below fp32 was made, what it costs, and which layers were kept; nothing for fp32."""
    made = manifest.quantization
    if made is None:
        return []
    lines = [
        f"{made.method}; {made.converted} layers in {manifest.precision}",
        f"ranges from {made.images} images, {made.images_source} (sha256 {made.images_sha256[:12]})",
    ]
    if made.quality is not None:
        cost = made.quality
        lines.append(
            f"{cost.metric} {cost.fp32:.2f} in fp32, {cost.everything:.2f} with every layer in {manifest.precision}, "
            f"{cost.kept_back:.2f} as it is, on {cost.images} images; budget {cost.budget:g} points"
        )
    return lines + [f"kept in fp32: {layer.name} ({layer.op}): {layer.reason}" for layer in made.kept]
