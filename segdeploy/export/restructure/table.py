"""What convolving before upsampling saves: ``python -m segdeploy.export.restructure.table CONFIG [CONFIG ...]``.

Of each config, untrained: multiplications of the network, time of mmseg's own model and of both graphs in onnxruntime, in
turns, and the peak memory of a process that runs one of them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from segdeploy.models.checkpoint import Checkpoint


@dataclass(frozen=True)
class Row:
    """One config.

    Attributes:
        config: its name.
        convolutions: how many are done before the upsampling.
        gmac: multiplications in billions, plain and restructured.
        wall_ms: of eager, plain and restructured, one list of runs each.
        cpu_ms: likewise, of all threads together.
        peak_mib: of a process that runs the plain graph, and of one that runs the restructured one.
    """

    config: str
    convolutions: int
    gmac: tuple[float, float]
    wall_ms: tuple[list[float], ...]
    cpu_ms: tuple[list[float], ...]
    peak_mib: tuple[float, float]


def measure(config: str, size: tuple[int, int], runs: int, folder: Path, *, eager: bool) -> Row:
    """Export a config twice, and run what there is in turns.

    Args:
        config: as ``segdeploy export --random-weights`` takes it.
        size: (H, W).
        runs: of each.
        folder: for what is exported.
        eager: run mmseg's own model too.
    """
    from segdeploy.export.export import export_model
    from segdeploy.export.options import Options
    from segdeploy.export.shapes import choose_shapes
    from segdeploy.models.random_weights import write_random_checkpoint
    from segdeploy.runtime import open_session
    from segdeploy.runtime.open import eager_artifact

    path = folder / "random.pth"
    checkpoint = write_random_checkpoint(config, path)
    text = f"{size[0]}x{size[1]}"
    shapes = choose_shapes(size, best=text, largest="x".join(str(max(side, 2048)) for side in size))
    artifacts = [
        export_model(checkpoint, "onnx", folder / name, name=name, shapes=shapes, options=Options(restructure=name != "plain"))
        for name in ("plain", "restructured")
    ]
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(1, maxtasksperchild=1) as pool:
        peaks = [pool.apply(peak_mib, (artifact.folder, image)) for artifact in artifacts]
    opened = [eager_artifact(path), *artifacts] if eager else artifacts
    wall: list[list[float]] = [[] for _ in opened]
    cpu: list[list[float]] = [[] for _ in opened]
    with ExitStack() as stack:
        sessions = [stack.enter_context(open_session(artifact, "cpu")) for artifact in opened]
        for turn in range(runs + 1):  # the first warms up
            for index, session in enumerate(sessions):
                before = time.perf_counter(), time.process_time()
                session.run(image)
                if turn:
                    wall[index].append(1000 * (time.perf_counter() - before[0]))
                    cpu[index].append(1000 * (time.process_time() - before[1]))
    count = len(artifacts[1].manifest.restructured)
    return Row(config, count, gmac(checkpoint, size), tuple(wall), tuple(cpu), (peaks[0], peaks[1]))


def gmac(checkpoint: Checkpoint, size: tuple[int, int]) -> tuple[float, float]:
    """Multiplications of convolutions and matrix products, in billions, as torch counts them: plain and restructured."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    from segdeploy.export.graph import DeployGraph
    from segdeploy.models.build import build_model
    from segdeploy.models.describe import describe

    manifest = describe(checkpoint, name="counted", fmt="onnx", height=size[0], width=size[1])
    found = []
    for restructured in (False, True):
        graph = DeployGraph(build_model(checkpoint), manifest, restructured=restructured).eval()
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter, FakeTensorMode(allow_non_fake_inputs=True):
            graph(torch.zeros(1, *size, 3, dtype=torch.uint8))
        found.append(counter.get_total_flops() / 2e9)
    return found[0], found[1]


def peak_mib(folder: Path, image: Any) -> float:
    """The most memory that this process ever held, in MiB, after it has run an artifact; on Linux."""
    from segdeploy.artifact.folder import open_artifact
    from segdeploy.runtime import open_session

    with open_session(open_artifact(folder), "cpu") as session:
        session.run(image)
    # Not getrusage's, which a process that is started inherits from its parent.
    (peak,) = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM:")]
    return int(peak.split()[1]) / 1024


def line(row: Row) -> str:
    """A row of the table."""

    def told(values: Sequence[Sequence[float]]) -> str:
        return " / ".join(f"{min(one):.0f} ({median(one):.0f})" for one in values)

    (plain, before), (high, low) = row.gmac, row.peak_mib
    name = row.config.rpartition("/")[2]
    products = f"{row.convolutions} | {plain:.1f} | {before:.1f}"
    return f"| {name} | {products} | {told(row.wall_ms)} | {told(row.cpu_ms)} | {high:.0f} / {low:.0f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--no-eager", action="store_true")
    taken = parser.parse_args()
    height, width = map(int, taken.size.split("x"))
    for config in taken.configs:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(config, (height, width), taken.runs, Path(folder), eager=not taken.no_eager)
        print(line(row), flush=True)  # noqa: T201  a script's output
    print(f"load over 1, 5 and 15 minutes: {', '.join(f'{one:.1f}' for one in os.getloadavg())}")  # noqa: T201


if __name__ == "__main__":
    main()
