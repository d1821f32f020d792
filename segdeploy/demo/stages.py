"""The stages of the demo: each calls what the command of its name calls, on synthetic data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from segdeploy.artifact.verdict import Parity
from segdeploy.base.folders import claim_folder
from segdeploy.bench.result import BenchReport
from segdeploy.scores.confusion_matrix import Evaluation

CONFIG = "upernet_r18_synthetic"
FORMATS = ("torchscript", "onnx", "tensorrt")
TRAIN_IMAGES, VAL_IMAGES, SIZE, CLASSES, SEED = 240, 40, (128, 128), 5, 0
LEAST_MIOU = 70.0
_SERVED_IMAGES = 12


class Trained(msgspec.Struct, frozen=True):
    """What the training gave.

    Attributes:
        checkpoint: its path.
        evaluation: of the checkpoint on the validation images.
    """

    checkpoint: str
    evaluation: Evaluation


class Served(msgspec.Struct, frozen=True):
    """Masks that TorchServe returned, held against the same artifact in this process.

    Attributes:
        archive: the .mar.
        images: how many were posted.
        identical: how many came back with every pixel the same.
        pixels_differ: over all images.
    """

    archive: str
    images: int
    identical: int
    pixels_differ: int


@dataclass(frozen=True)
class Places:
    """Where the demo keeps its things."""

    root: Path

    @property
    def data(self) -> Path:
        """The synthetic data set."""
        return self.root / "data"

    @property
    def work_dir(self) -> Path:
        """MMEngine's folder of the run."""
        return self.root / "work_dirs" / CONFIG

    def artifact(self, fmt: str) -> Path:
        """The folder of an export."""
        return self.root / "exports" / CONFIG / f"{fmt}-fp32"

    @property
    def store(self) -> Path:
        """TorchServe's model store."""
        return self.root / "model_store"

    @property
    def pictures(self) -> Path:
        """Predictions for the report."""
        return self.root / "predictions"


def inputs() -> list[object]:
    """What the results depend on: an earlier run with others is not taken up."""
    from segdeploy import __version__
    from segdeploy.models.configs import find_config

    return [__version__, TRAIN_IMAGES, VAL_IMAGES, SIZE, CLASSES, SEED, find_config(CONFIG).read_text()]


def claim(places: Places) -> None:
    """Take the folder for the demo: a new or an empty one, or an earlier demo's.

    Raises:
        InputError: it holds something else.
    """
    claim_folder(places.root, "segdeploy demo")


def clear(places: Places) -> None:
    """Forget an earlier run: its state and its training, which would be taken up. The rest is replaced as it is made again."""
    import shutil

    claim(places)  # whoever asks
    shutil.rmtree(places.work_dir, ignore_errors=True)
    for name in ("state.json", "report.json", "report.html"):
        (places.root / name).unlink(missing_ok=True)


def make_data(places: Places) -> int:
    """Write the data set; the number of images."""
    from segdeploy.training.synthetic import write_synthetic_voc

    write_synthetic_voc(places.data, train=TRAIN_IMAGES, val=VAL_IMAGES, size=SIZE, classes=CLASSES, seed=SEED)
    return TRAIN_IMAGES + VAL_IMAGES


def train(places: Places) -> Trained:
    """Train, going on where an interrupted run stopped, and evaluate the result."""
    from segdeploy.images.dataset import find_samples
    from segdeploy.runtime import open_session
    from segdeploy.runtime.evaluation import evaluate
    from segdeploy.runtime.open import eager_artifact
    from segdeploy.training.configure import Settings
    from segdeploy.training.train import train as run_training

    resume = (places.work_dir / "last_checkpoint").is_file()
    result = run_training(CONFIG, Settings(work_dir=places.work_dir, data_root=places.data, resume=resume))
    with open_session(eager_artifact(result.checkpoint)) as session:
        evaluation = evaluate(session, find_samples(places.data, "val"), label="eval the checkpoint")
    return Trained(str(result.checkpoint), evaluation)


def export(places: Places, trained: Trained, fmt: str) -> str:
    """Export to one format; the artifact's folder."""
    from segdeploy.export.export import export_model
    from segdeploy.export.exporter import find_exporter
    from segdeploy.export.shapes import choose_shapes
    from segdeploy.models.checkpoint import load_checkpoint
    from segdeploy.models.describe import crop_size

    checkpoint = load_checkpoint(Path(trained.checkpoint))
    shapes = choose_shapes(crop_size(checkpoint.config), limits=find_exporter(fmt).limits)
    artifact = export_model(checkpoint, fmt, places.artifact(fmt), name=CONFIG, shapes=shapes)
    return str(artifact.folder)


def verify(places: Places, fmt: str) -> Parity:
    """Hold one export against the checkpoint, on validation images."""
    from segdeploy.artifact.folder import open_artifact
    from segdeploy.parity.inputs import pictures_of_dataset
    from segdeploy.parity.verify import verify as run_verify

    artifact = open_artifact(places.artifact(fmt))
    return run_verify(artifact, inputs=pictures_of_dataset(places.data, "val", artifact.manifest))


def bench(places: Places, trained: Trained) -> BenchReport:
    """Measure the checkpoint and every export side by side, and keep the first predictions."""
    from segdeploy.artifact.folder import Artifact, open_artifact
    from segdeploy.base.files import write_file
    from segdeploy.bench.result import BenchSettings
    from segdeploy.bench.run import bench as run_bench
    from segdeploy.images.dataset import find_samples
    from segdeploy.runtime.open import eager_artifact

    def keep(artifact: Artifact, predictions: Sequence[bytes]) -> None:
        for index, png in enumerate(predictions):
            write_file(places.pictures / f"{artifact.manifest.label}-{index}.png", png)

    candidates = [eager_artifact(Path(trained.checkpoint)), *(open_artifact(places.artifact(fmt)) for fmt in FORMATS)]
    return run_bench(
        candidates,
        BenchSettings(iterations=100, max_time_s=20),
        find_samples(places.data, "val"),
        data="synthetic val",
        command="segdeploy demo",
        on_predictions=keep,
    )


def serve(places: Places) -> Served:
    """Pack the ONNX export, start TorchServe on loopback, post images, compare the masks, stop it."""
    from segdeploy.artifact.folder import open_artifact
    from segdeploy.base.progress import track
    from segdeploy.images.dataset import find_samples
    from segdeploy.images.decode import read_image
    from segdeploy.runtime import open_session
    from segdeploy.runtime.predictor import predict_labels
    from segdeploy.serve.archive import pack
    from segdeploy.serve.client import predict
    from segdeploy.serve.server import start

    artifact = open_artifact(places.artifact("onnx"))
    archive = pack(artifact, name="upernet", out=places.store)
    samples = find_samples(places.data, "val")[:_SERVED_IMAGES]
    differ = []
    with open_session(artifact, "cpu") as session, start(archive) as server:
        for sample in track(samples, "serve", len(samples)):
            served = predict(server.url, sample.image.read_bytes(), token=server.token)
            expected = predict_labels(session, read_image(sample.image))
            same_size = served.shape == expected.shape
            differ.append(int((served != expected).sum()) if same_size else expected.size)
    return Served(str(archive), len(samples), differ.count(0), sum(differ))
