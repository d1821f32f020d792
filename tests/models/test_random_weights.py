import socket

import pytest
import torch

from segdeploy.base.errors import ConfigError
from segdeploy.models.build import build_model
from segdeploy.models.checkpoint import load_checkpoint
from segdeploy.models.describe import describe
from segdeploy.models.random_weights import initialise, random_checkpoint_path, smallest_size, write_random_checkpoint

SEGFORMER = "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512"


@pytest.fixture(scope="module")
def tiny(config_file, tmp_path_factory, one_thread):
    path = tmp_path_factory.mktemp("random") / "tiny-random" / "random-weights.pth"
    return path, write_random_checkpoint(str(config_file("tiny")), path)


def test_it_is_a_checkpoint_that_says_what_it_is(tiny):
    """It loads as any other, without running code; the manifest says random, the folder's name is the model's."""
    path, checkpoint = tiny
    loaded = load_checkpoint(path)
    assert loaded.random_weights
    assert loaded.sha256 == checkpoint.sha256
    manifest = describe(loaded, name="n", fmt="onnx")
    assert manifest.lineage.random_weights
    assert manifest.lineage.checkpoint_sha256 == checkpoint.sha256
    assert manifest.classes[0] == "background"
    assert torch.load(path, weights_only=True)["meta"]["segdeploy_random_weights"] == 0


def test_a_trained_checkpoint_is_not_random(checkpoint_path):
    """The mark is in the file, not in the absence of something."""
    assert not load_checkpoint(checkpoint_path).random_weights
    assert not describe(load_checkpoint(checkpoint_path), name="n", fmt="onnx").lineage.random_weights


def test_the_same_seed_gives_the_same_weights(tiny, config_file, tmp_path):
    """Made again elsewhere the file is the same to the byte; another seed gives other weights; the caller's generator stays."""
    _, checkpoint = tiny
    state = torch.random.get_rng_state()
    again = write_random_checkpoint(str(config_file("tiny")), tmp_path / "a.pth")
    other = write_random_checkpoint(str(config_file("tiny")), tmp_path / "b.pth", seed=1)
    assert again.sha256 == checkpoint.sha256
    assert other.sha256 != checkpoint.sha256
    assert torch.equal(torch.random.get_rng_state(), state)


def test_one_that_is_there_is_kept(tiny, config_file):
    """Artifacts remember its hash: the same config and seed leaves the file alone, another config replaces it."""
    path, checkpoint = tiny
    before = path.stat().st_mtime_ns
    assert write_random_checkpoint(str(config_file("tiny")), path).sha256 == checkpoint.sha256
    assert path.stat().st_mtime_ns == before
    copy = path.with_name("copy.pth")
    copy.write_bytes(path.read_bytes())
    changed = write_random_checkpoint(str(config_file("changed", model__decode_head={"channels": 8})), copy)
    assert changed.state_dict["decode_head.conv_seg.weight"].shape[1] == 8


def test_the_logits_vary(tiny):
    """Every class varies from pixel to pixel at the scale of one, and several labels come out, on pictures not seen before."""
    model = build_model(tiny[1])
    image = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(torch.nn.functional.interpolate(4 * image - 2, (64, 96), mode="bilinear"), mode="tensor")
    spread = logits.std((0, 2, 3))
    assert ((spread > 0.2) & (spread < 5)).all()
    assert len(logits.argmax(1).unique()) >= 3


def test_nothing_is_switched_off(tmp_path, one_thread):
    """Position embeddings, norms, biases: no parameter is a constant, and none is out of all proportion."""
    model = build_model(write_random_checkpoint(SEGFORMER, tmp_path / "x.pth"))
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert parameter.numel() == 1 or parameter.std() > 1e-4, name
        assert parameter.abs().max() < 100, name


def test_a_branch_that_starts_at_zero_counts(random_variant):
    """DANet's attention starts with a factor of 0: here it must change the logits."""
    head = {"type": "DAHead", "in_channels": 64, "in_index": 3, "pam_channels": 8}
    _, model = random_variant("danet", model__decode_head=plain_head(head))
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(image, mode="tensor")[0]
        model.decode_head.pam.gamma.scale.zero_()
        assert (model(image, mode="tensor")[0] - before).abs().max() > 1e-2


ERFNET = {"_delete_": True, "type": "ERFNet", "enc_downsample_channels": (16, 32, 64), "norm_cfg": {"type": "BN"}}
MOBILENET = {"_delete_": True, "type": "MobileNetV2", "out_indices": (5, 6), "norm_cfg": {"type": "BN"}}


@pytest.mark.parametrize(("backbone", "channels", "index"), [(ERFNET, 16, 0), (MOBILENET, 320, 1)])
def test_rounding_is_not_blown_up(random_variant, backbone, channels, index):
    """A deep stack of random blocks is chaotic where nothing damps it: float32 must agree with float64 to its own precision."""
    head = {"type": "FCNHead", "in_channels": channels, "in_index": index, "num_convs": 1}
    _, model = random_variant(backbone["type"], model__backbone=backbone, model__decode_head=plain_head(head))
    blobs = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(blobs, (128, 128), mode="bilinear")
    with torch.no_grad():
        single, double = model(image, mode="tensor"), model.double()(image.double(), mode="tensor")
    error = float((single - double).abs().max() / double.abs().max())
    assert error < 1e-5


def test_knets_masks_are_soft(random_variant):
    """Filters of power one would give large logits, whose softmax the next stage takes for labels."""
    updator = {"type": "KernelUpdator", "in_channels": 256, "feat_channels": 256, "out_channels": 256}
    update = {"type": "KernelUpdateHead", "num_classes": 5, "num_heads": 2, "num_mask_fcs": 1, "feedforward_channels": 16}
    first = plain_head({"type": "FCNHead", "in_channels": 64, "in_index": 3, "channels": 256, "num_convs": 1})
    first.pop("_delete_")
    head = {
        "_delete_": True,
        "type": "IterativeDecodeHead",
        "num_stages": 1,
        "kernel_update_head": [{**update, "kernel_updator_cfg": {**updator, "norm_cfg": {"type": "LN"}}}],
        "kernel_generate_head": first,
    }
    _, model = random_variant("knet_masks", model__decode_head=head)
    image = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(torch.nn.functional.interpolate(image, (64, 96), mode="bilinear"), mode="tensor")
    assert 0.2 < logits.std() < 2


def plain_head(values):
    norm = {"type": "BN", "requires_grad": True}
    return {"_delete_": True, "channels": 16, "num_classes": 5, "norm_cfg": norm, "align_corners": False, **values}


def test_nothing_is_fetched(tmp_path, monkeypatch):
    """A config with a pretrained backbone needs no network."""
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was used"))
    config = "mmseg::bisenetv1/bisenetv1_r18-d32-in1k-pre_4xb4-160k_cityscapes-1024x1024"
    assert write_random_checkpoint(config, tmp_path / "x.pth").random_weights


def test_constant_logits_are_refused(tiny, monkeypatch):
    """Parity of constants proves nothing."""
    model = build_model(tiny[1])
    monkeypatch.setattr(model.decode_head, "cls_seg", lambda x: torch.ones(len(x), 5, *x.shape[2:]))
    with pytest.raises(ConfigError, match="logits vary"):
        initialise(model, (64, 96))


def test_the_smallest_size(config_file, one_thread):
    """The first usual size that a model takes; its crop where it takes nothing else; a ConfigError where not even that."""
    from segdeploy.models.checkpoint import bare_checkpoint

    model = build_model(bare_checkpoint(str(config_file("tiny"))))
    assert smallest_size(model, (512, 1024)) == (128, 128)
    assert smallest_size(model, (64, 96)) == (64, 96)
    forward = model.backbone.forward

    def only(height, width):
        def check(x):
            assert x.shape[2:] == (height, width), "another size"
            return forward(x)

        return check

    model.backbone.forward = only(320, 160)
    assert smallest_size(model, (320, 160)) == (320, 160)
    with pytest.raises(ConfigError, match="its own crop of 300x300"):
        smallest_size(model, (300, 300))


def test_where_it_lies(tmp_path):
    """Beside the artifacts, in a folder whose name says random; a name that was asked for is kept."""
    path = random_checkpoint_path(SEGFORMER, tmp_path)
    assert path == tmp_path / "segformer_mit-b0_8xb2-160k_ade20k-512x512-random" / "random-weights.pth"
    assert random_checkpoint_path("mmseg::a/b.py", tmp_path).parent.name == "b-random"
    assert random_checkpoint_path("mmseg::a/b.py", tmp_path, "mine").parent.name == "mine"
