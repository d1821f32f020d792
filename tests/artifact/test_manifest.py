import json

import msgspec
import pytest

from segdeploy.artifact.manifest import Bounds, Engine, FileEntry, Profile, Target, decode_manifest, encode_manifest
from segdeploy.artifact.quantization import KeptLayer, QualityDrop, Quantization
from segdeploy.artifact.verdict import FlipFigures, LogitFigures, Parity, ShapeParity, Tolerance
from segdeploy.base.errors import ArtifactError


def full(make_manifest):
    shape = ShapeParity(
        shape=(1, 16, 24),
        images=2,
        logits=LogitFigures(
            max_abs=1e-6,
            mean_abs=1e-7,
            p99_abs=5e-7,
            scale=3.5,
            relative_l2=1e-7,
            cosine=1.0,
            psnr_db=None,
            decades=((-7, 12), (-6, 3)),
            class_max_abs=(1e-6, 1e-7, 0.0),
            not_finite=0,
        ),
        masks=FlipFigures(
            pixels=99, differ=2, agreement=97 / 99, band=1, interior=1, firm=0, margin_max=1e-6, classes=(2, 0, 0)
        ),
        verdict="passed",
    )
    parity = Parity(
        reference="eager",
        inputs="2 images",
        device="cpu",
        tolerance=Tolerance(logits_max_abs=1e-4, mask_agreement=0.9999, miou_points=0.1),
        shapes=(shape,),
        verdict="passed",
    )
    quantization = Quantization(
        method="Q/DQ",
        images=8,
        images_source="train",
        images_sha256="e" * 64,
        converted=12,
        kept=(KeptLayer(name="decode_head.conv_seg", op="Conv", reason="an outlier"),),
        quality=QualityDrop(metric="mIoU", images=9, fp32=70.0, everything=50.0, kept_back=69.8, budget=0.5),
    )
    profiles = (
        Profile(min=(1, 8, 8), opt=(1, 16, 24), max=(4, 64, 64)),
        Profile(min=(2, 16, 24), opt=(2, 16, 24), max=(2, 16, 24)),
    )
    return make_manifest(
        target=Target(device="cuda", compute_capability="sm89"),
        engine=Engine(profiles=profiles, workspace_bytes=1 << 30),
        parity=(parity,),
        precision="int8",
        quantization=quantization,
    )


def test_round_trip(make_manifest):
    """What is written is read back equal, as JSON that people can read."""
    manifest = full(make_manifest)
    data = encode_manifest(manifest)
    assert data.endswith(b"}\n")
    assert b'\n  "schema": 2,' in data
    assert decode_manifest(data, "x") == manifest
    assert json.loads(data)["input"]["shape"] == [
        {"min": 1, "opt": 1, "max": 4, "step": 1},
        {"min": 8, "opt": 16, "max": 64, "step": 1},
        {"min": 8, "opt": 24, "max": 64, "step": 1},
        3,
    ]
    assert manifest.input.shape[0] == Bounds(min=1, opt=1, max=4)


def set_at(values, path, value):
    for key in path[:-1]:
        values = values[key]
    values[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("surprise",), 1),
        (("preprocess", "surprise"), 1),
        (("parity", 0, "shapes", 0, "surprise"), 1),
        (("quantization", "kept", 0, "surprise"), 1),
        (("quantization", "quality", "metric"), "accuracy"),
        (("engine", "profiles"), []),
        (("engine", "typing"), "half"),
        (("format",), "caffe"),
        (("parity", 0, "verdict"), "perfect"),
        (("input", "shape", 0), "any"),
        (("palette", 1), [1, 2]),
        (("name",), None),
    ],
)
def test_a_wrong_field_is_named(make_manifest, path, value):
    """An unknown field, an unknown word, a wrong type: an ArtifactError that names the field and the file, in one line."""
    values = json.loads(encode_manifest(full(make_manifest)))
    set_at(values, path, value)
    with pytest.raises(ArtifactError, match="x/manifest.json") as caught:
        decode_manifest(json.dumps(values).encode(), "x/manifest.json")
    text = str(caught.value)
    named = [part for part in path if isinstance(part, str)]
    assert named[-1] in text
    assert "\n" not in text


def test_an_older_manifest_opens(make_manifest):
    """One that was written before there was a ``quantization`` is a float32 one."""
    values = json.loads(encode_manifest(make_manifest()))
    del values["quantization"]
    assert decode_manifest(json.dumps(values).encode(), "x") == make_manifest()


def of_schema_1(make_manifest, **changes):
    """The bytes that schema 1 wrote of the full manifest."""
    manifest = full(make_manifest)
    entry = FileEntry(path="model.onnx", sha256="a" * 64, bytes=1)
    values = json.loads(encode_manifest(msgspec.structs.replace(manifest, files=(entry,))))
    (parity,) = values["parity"]
    for name in ("when", "files", "provider", "processor", "noise", "unrecorded", "broken"):
        del parity[name]
    del values["packed_despite"]
    return {**values, "schema": 1, "parity": parity, "packed_unverified": False, **changes}


def test_a_manifest_of_schema_1_opens(make_manifest):
    """Its one verdict is the first of the history, of the files as they are; nobody has to export again."""
    found = decode_manifest(json.dumps(of_schema_1(make_manifest)).encode(), "x")
    (parity,) = found.parity
    assert (found.schema, parity.files, parity.when, parity.noise) == (2, ("a" * 64,), None, False)
    assert found.verdict() == found.verdict("cpu") == parity
    assert found.verdict("cuda") is None
    assert found.packed_despite == ()
    assert decode_manifest(encode_manifest(found), "x") == found


def test_what_schema_1_said_of_packing_and_noise_stays(make_manifest):
    """No verdict is an empty history; packed unverified stays said for ever; noise is known by its words."""
    values = of_schema_1(make_manifest, parity=None, packed_unverified=True)
    found = decode_manifest(json.dumps(values).encode(), "x")
    assert (found.parity, found.verdict()) == ((), None)
    assert found.packed_despite == ("no passed verdict (--unverified)",)
    values = of_schema_1(make_manifest)
    values["parity"]["inputs"] = "8 images of seeded noise"
    assert decode_manifest(json.dumps(values).encode(), "x").parity[0].noise


@pytest.mark.parametrize(("name", "value"), [("parity", 3), ("files", 3), ("files", [3]), ("surprise", 1)])
def test_a_wrong_field_of_schema_1_is_named(make_manifest, name, value):
    """An older manifest is held to its form as well."""
    with pytest.raises(ArtifactError, match=name):
        decode_manifest(json.dumps(of_schema_1(make_manifest, **{name: value})).encode(), "x")


def test_a_missing_field_is_named(make_manifest):
    """A field that is not there is named too."""
    values = json.loads(encode_manifest(make_manifest()))
    del values["classes"]
    with pytest.raises(ArtifactError, match="classes"):
        decode_manifest(json.dumps(values).encode(), "x")


@pytest.mark.parametrize("schema", [0, 3, "1", 1.5])
def test_another_schema(make_manifest, schema):
    """A manifest of another schema says so, not which of its fields is strange."""
    values = {"schema": schema, "new_field": True}
    with pytest.raises(ArtifactError, match="of schema 2"):
        decode_manifest(json.dumps(values).encode(), "x")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}"])
def test_no_manifest(data):
    """Text that is no JSON, or no manifest, is an ArtifactError."""
    with pytest.raises(ArtifactError, match="a valid manifest"):
        decode_manifest(data, "x")
