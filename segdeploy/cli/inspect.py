"""``segdeploy inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from segdeploy.artifact.manifest import Manifest

# What a model file from elsewhere may do when it is opened; hashes say that it is whole, not who made it. See docs/security.md.
_OPENING = {
    "onnx": "reads data: graph and weights, no code, no libraries of custom operators",
    "torchscript": "runs a TorchScript program: open it only from who you trust",
    "pt2": "loads NATIVE CODE (a compiled library): open it only from who you trust",
    "openvino": "reads data: graph and weights; no extension libraries",
    "tensorrt": "loads NATIVE CODE for the GPU: open it only from who you trust",
    "eager": "reads tensors and plain data; the stored config runs no code",
}


@click.command("inspect")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The manifest itself.")
def command(artifact: Path, as_json: bool) -> None:
    """Show what ARTIFACT is, where it came from, and what was proven of it. Its files' hashes are checked."""
    import msgspec

    from segdeploy.artifact.folder import open_artifact
    from segdeploy.artifact.manifest import Bounds, encode_manifest
    from segdeploy.parity.reports import figures, told_divergence

    opened = open_artifact(artifact)
    manifest = opened.manifest
    if as_json:
        click.echo(encode_manifest(manifest).decode(), nl=False)
        return

    def axis(value: int | Bounds) -> str:
        return f"{value.min}..{value.max} (best {value.opt})" if isinstance(value, Bounds) else str(value)

    lineage, tools, parity = manifest.lineage, manifest.toolchain, manifest.verdict()
    shape = ", ".join(f"{letter} {axis(value)}" for letter, value in zip("NHWC", manifest.input.shape, strict=True))
    versions = {
        (tools.tensorrt_flavour or name) if name == "tensorrt" else name: version
        for name, version in msgspec.structs.asdict(tools).items()
        if name != "tensorrt_flavour"
    }
    facts = {
        "name": opened.name,
        "files": ", ".join(f"{file.path} ({file.bytes / 1e6:.1f} MB, sha256 {file.sha256[:12]})" for file in manifest.files),
        "input": f"{manifest.input.name} {manifest.input.dtype} [{shape}]",
        "outputs": ", ".join(f"{out.name} {out.dtype} [{', '.join(out.layout)}]" for out in manifest.outputs),
        "precision": manifest.precision,
        "graph": _graph(manifest),
        "resize": manifest.preprocess.resize.words,
        "fit": describe_fit(manifest)[0],
        "inference": manifest.inference.mode,
        "classes": f"{len(manifest.classes)}: {', '.join(manifest.classes)}",
        "target": _target(manifest),
        "checkpoint": f"{lineage.checkpoint or 'none'} (sha256 {(lineage.checkpoint_sha256 or '-')[:12]})",
        "command": lineage.command or "not recorded",
        "made with": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "opening it": _OPENING[manifest.format],
        "weights": "RANDOM: nobody trained this model, its labels mean nothing" if lineage.random_weights else "trained",
        "parity": ("never verified" if parity is None else parity.verdict)
        + (f" (was packed despite: {'; '.join(manifest.packed_despite)})" if manifest.packed_despite else ""),
    }
    more_of = {
        "fit": describe_fit(manifest)[1:],
        "precision": describe_quantization(manifest),
        "target": _told_by_format(manifest),
    }
    width = max(map(len, facts))
    for name, value in facts.items():
        first, *more = [value, *more_of.get(name, [])]
        click.echo(f"{name:<{width}}  {first}")
        for line in more:
            click.echo(f"{'':<{width}}  {line}")
    if parity is not None:
        lines = [f"against {parity.reference}, on {parity.inputs}, {parity.device}", *told_divergence(parity)]
        for line in lines + [f"{check.name}: {check.verdict}: {figures(parity, check)}" for check in parity.checks]:
            click.echo(f"{'':<{width}}  {line}")


def _graph(manifest: Manifest) -> str:
    names = ", ".join(manifest.restructured)
    return f"convolved before upsampling: {names}" if names else "the model's own: nothing is convolved before upsampling"


def _target(manifest: Manifest) -> str:
    target = manifest.target
    if target is None:
        return "portable"
    found = (target.device if target.cpu else None, target.compute_capability, target.cpu)
    return ", ".join(part for part in found if part) or target.device


def describe_fit(manifest: Manifest) -> list[str]:
    """How pictures of a size that the artifact does not take come to one that it does, and how batches are filled."""
    from segdeploy.artifact.axes import bounds

    fit, (least, _, _) = manifest.fit, bounds(manifest.input.shape[0])
    words = {
        "resize": "resized to the nearest, whatever that does to their proportions",
        "pad": "padded at the right and bottom; scaled down first where too large",
        "tiles": "cut into overlapping tiles; padded where too small",
    }
    lines = [f"pictures of other sizes: {words[fit.mode]}"]
    if fit.tile is not None and fit.stride is not None:
        lines[0] += f" (tiles of {fit.tile[0]}x{fit.tile[1]}, one each {fit.stride[0]}x{fit.stride[1]})"
    if fit.fill == "repeat":
        lines.append(f"fewer than {least} pictures: the batch is filled up with them again")
    return lines


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


def _told_by_format(manifest: Manifest) -> list[str]:
    from segdeploy.artifact.manifest import FORMATS
    from segdeploy.export.exporter import find_exporter

    return find_exporter(manifest.format).tell(manifest) if manifest.format in FORMATS else []
