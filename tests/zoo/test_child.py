"""What is done inside a config's process: the outcome of each kind of model."""

import pytest

from segdeploy.base.errors import ExportError
from segdeploy.models.build import build_model
from segdeploy.models.checkpoint import load_checkpoint
from segdeploy.zoo import child as zoo_child
from segdeploy.zoo.child import Sizes, examine, find_sizes, try_format

pytestmark = pytest.mark.filterwarnings("ignore")
# Adds features of strides 4 and 8 without resizing them: they fit at multiples of 8 alone.
UNET = {
    "_delete_": True,
    "type": "UNet",
    "base_channels": 4,
    "num_stages": 3,
    "strides": (1, 1, 1),
    "enc_num_convs": (1, 1, 1),
    "dec_num_convs": (1, 1),
    "downsamples": (True, True),
    "enc_dilations": (1, 1, 1),
    "dec_dilations": (1, 1),
    "norm_cfg": {"type": "BN"},
}
FCN = {
    "_delete_": True,
    "type": "FCNHead",
    "in_channels": 4,
    "in_index": 2,
    "channels": 4,
    "num_convs": 1,
    "num_classes": 5,
    "norm_cfg": {"type": "BN"},
}


def test_a_model_that_exports(config_file, tmp_path, one_thread):
    """Every figure of the entry: three sizes, one of them a batch, in each format that was asked for."""
    written = []
    entry = examine("f", str(config_file("zoo")), ("torchscript",), tmp_path, written.append)
    assert written == [entry]
    assert (entry.outcome, entry.reason) == ("exported", "")
    (result,) = entry.formats
    assert (result.format, result.status, result.step, result.reason) == ("torchscript", "dynamic", 1, "")
    assert [shape.shape[0] for shape in result.parity] == [1, 2, 1]
    assert len({shape.shape[1:] for shape in result.parity}) == 3
    assert {shape.verdict for shape in result.parity} == {"passed"}
    assert result.bytes == (tmp_path / "torchscript" / "dynamic" / "model.pt").stat().st_size
    model = build_model(load_checkpoint(tmp_path / "random" / "random-weights.pth"))
    assert entry.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_sizes_in_steps(random_variant):
    """A model whose features fit at multiples of four only is tried at those."""
    path, _ = random_variant("zoo_unet", model__backbone=UNET, model__decode_head=FCN)
    checkpoint = load_checkpoint(path)
    sizes = find_sizes(build_model(checkpoint), checkpoint)
    assert sizes.step == 8
    assert not any(side % 8 for side in sizes.base)


@pytest.mark.parametrize(
    ("sizes", "why"),
    [(Sizes((64, 96), None), "the architecture takes one size only"), (Sizes((64, 96), 1), "got wrong at another size")],
)
def test_static_where_dynamic_does_not_pass(checkpoint_path, tmp_path, monkeypatch, sizes, why):
    """Then one size, and the reason."""
    export = zoo_child.export_model

    def only_static(checkpoint, fmt, folder, *, name, shapes):
        if not isinstance(shapes.height, int):
            raise ExportError(expected="x", got="got wrong at another size", fix="y")
        return export(checkpoint, fmt, folder, name=name, shapes=shapes)

    monkeypatch.setattr(zoo_child, "export_model", only_static)
    result = try_format(load_checkpoint(checkpoint_path), "torchscript", sizes, tmp_path)
    assert (result.status, result.reason) == ("static", why)
    assert [shape.shape for shape in result.parity] == [(1, 64, 96)]


def test_a_graph_that_runs_at_one_size(checkpoint_path, tmp_path, monkeypatch):
    """What a backend raises at another size is the reason for a static graph, in one line."""

    def verify(artifact, *, shapes, **_):
        if len(shapes) > 1:
            raise RuntimeError("a trace\nStatus Message: shapes do not fit")
        return proof(artifact, shapes=shapes, **_)

    proof = zoo_child.verify
    monkeypatch.setattr(zoo_child, "verify", verify)
    result = try_format(load_checkpoint(checkpoint_path), "torchscript", Sizes((64, 96), 1), tmp_path)
    assert (result.status, result.reason) == ("static", "it does not run at every size: shapes do not fit")


def test_a_graph_that_is_wrong(checkpoint_path, tmp_path, monkeypatch):
    """Parity that fails at every size is a failure with its figures, whatever the exporter said."""
    from segdeploy.export import graph

    right = graph.rewrite

    def wrong(model):
        model.decode_head.conv_seg.bias.data.add_(1)
        return right(model)

    monkeypatch.setattr(graph, "rewrite", wrong)
    result = try_format(load_checkpoint(checkpoint_path), "torchscript", Sizes((64, 96), None), tmp_path)
    assert result.status == "failed"
    assert result.reason.startswith("parity failed at own sizes: a logit is off by 1")


@pytest.mark.parametrize(
    ("config", "module", "reason"),
    [
        ("mmseg::ccnet/ccnet_r50-d8_4xb4-20k_voc12aug-512x512", "mmcv._ext", "needs compiled mmcv ops"),
        ("mmseg::point_rend/pointrend_r50_4xb4-160k_ade20k-512x512", "mmcv._ext", "needs compiled mmcv ops"),
        ("mmseg::poolformer/fpn_poolformer_s12_8xb4-40k_ade20k-512x512", "mmpretrain", "needs mmpretrain"),
        ("mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512", "mmdet", "needs mmdet"),
    ],
)
def test_what_is_not_installed(tmp_path, config, module, reason):
    """A compiled op or a package that is missing: not available here, and no failure of the model."""
    if zoo_child._installed(module):
        pytest.skip(f"{module} is installed")
    entry = examine("f", config, ("onnx",), tmp_path)
    assert (entry.outcome, entry.reason, entry.formats) == ("not available", reason, ())


def test_what_segdeploy_refuses(config_file, tmp_path):
    """A model of another kind is not supported: one line why."""
    entry = examine("f", str(config_file("zoo_kind", model__type="NoSuchSegmentor")), ("onnx",), tmp_path)
    assert entry.outcome == "not supported"
    assert "NoSuchSegmentor" in entry.reason
