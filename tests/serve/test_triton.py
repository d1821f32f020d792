"""The model repository for Triton: its config by Triton's own schema, its model.py with a stand-in for Triton's module."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from dataclasses import replace
from itertools import count

import msgspec
import numpy as np
import pytest

from segdeploy.artifact.folder import open_artifact
from segdeploy.artifact.manifest import Engine, Profile
from segdeploy.base.errors import ArtifactError, InputError
from segdeploy.serve.model_config import ModelConfig
from segdeploy.serve.predictor import open_predictor
from segdeploy.serve.request import Request
from segdeploy.serve.triton import pack_triton
from segdeploy.serve.triton_config import Tensor, bare_config, predictor_config, read_graph


def parsed(text):
    """By the schema that Triton itself parses it with."""
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient[grpc] is not installed")
    from google.protobuf import text_format

    return text_format.Parse(text, schema.ModelConfig()), schema


@pytest.fixture(scope="module")
def model_folder(onnx_artifact, tmp_path_factory):
    """The tiny artifact's predictor, packed for Triton."""
    import shutil

    own = tmp_path_factory.mktemp("own") / "onnx-fp32"
    shutil.copytree(onnx_artifact.folder, own)
    out = tmp_path_factory.mktemp("repository")
    return pack_triton(
        open_artifact(own), name="tiny", out=out, config=ModelConfig(batch_size=8, workers=2, queue_size=50), unverified=True
    )


class Response:
    def __init__(self, output_tensors, error=None):
        self.output_tensors, self.error = output_tensors, error


class TensorOfTriton:
    def __init__(self, name, array):
        self._name, self._array = name, array

    def name(self):
        return self._name

    def as_numpy(self):
        if isinstance(self._array, Exception):
            raise self._array
        return self._array


class Asked:
    """A request, as the documentation of the Python backend describes it."""

    def __init__(self, pictures, *, parameters="{}", cancelled=False):
        array = pictures if isinstance(pictures, Exception) else np.array(pictures, dtype=np.object_).reshape(-1, 1)
        self.inputs = {"image": TensorOfTriton("image", array)}
        self._parameters, self._cancelled = parameters, cancelled

    def parameters(self):
        return self._parameters

    def request_id(self):
        return "7"

    def is_cancelled(self):
        return self._cancelled


class ErrorOfTriton:
    INVALID_ARG, INTERNAL, UNAVAILABLE, CANCELLED = "invalid", "internal", "unavailable", "cancelled"

    def __init__(self, message, code=None):
        self.message, self.code = message, code


@pytest.fixture
def pb_utils(monkeypatch):
    """Triton's module for models in Python, as far as it is used; notes what metrics are told."""
    module = types.ModuleType("triton_python_backend_utils")
    module.told = []

    class Family:
        COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

        def __init__(self, *, name, description, kind):
            self.name, self.kind = name, kind
            assert description

        def Metric(self, *, labels, buckets=None):
            assert (buckets is not None) == (self.kind == "histogram")

            def note(verb):
                return lambda value: module.told.append((self.name, labels, verb, value))

            verb = {"counter": "increment", "gauge": "set", "histogram": "observe"}[self.kind]
            return types.SimpleNamespace(**{verb: note(verb)})

    module.MetricFamily = Family
    module.TritonModelException = type("TritonModelException", (Exception,), {})
    module.TritonError, module.Tensor, module.InferenceResponse = ErrorOfTriton, TensorOfTriton, Response
    module.get_input_tensor_by_name = lambda request, name: request.inputs.get(name)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


_number = count()


def opened(folder, config=None):
    """An instance of the model.py that was packed."""
    spec = importlib.util.spec_from_file_location(f"triton_model_{next(_number)}", folder / "1" / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize(
        {
            "model_name": "tiny",
            "model_config": json.dumps(config or {"instance_group": [{"count": 1}]}),
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
            "model_repository": str(folder),
            "model_version": "1",
        }
    )
    return model, module


def test_the_config_is_what_triton_reads(model_folder):
    """Parsed by Triton's schema: BYTES in and out, batches, instances, and a queue that has an end."""
    config, schema = parsed((model_folder / "config.pbtxt").read_text())
    assert (config.name, config.backend, config.max_batch_size) == ("tiny", "python", 8)
    for tensors, name in ((config.input, "image"), (config.output, "mask")):
        assert [(one.name, one.data_type, list(one.dims)) for one in tensors] == [(name, schema.TYPE_STRING, [1])]
    assert [(group.count, group.kind) for group in config.instance_group] == [(2, schema.ModelInstanceGroup.KIND_AUTO)]
    queue = config.dynamic_batching.default_queue_policy
    assert queue.timeout_action == schema.ModelQueuePolicy.REJECT
    assert queue.allow_timeout_override
    assert (queue.max_queue_size, queue.default_timeout_microseconds) == (50, 120_000_000)
    assert config.dynamic_batching.max_queue_delay_microseconds == 10_000


def test_the_artifact_lies_beside_the_model(model_folder):
    """Whole, and it says what it was packed in spite of."""
    artifact = open_artifact(model_folder / "1" / "artifact")
    assert artifact.manifest.packed_despite == ("no passed parity verdict: never verified (--unverified)",)


def test_each_request_gets_the_predictors_own_answer(model_folder, pb_utils, encoded):
    """Byte for byte; a request of three pictures gets three answers, in order."""
    model, _ = opened(model_folder)
    responses = model.execute([Asked([encoded[0]]), Asked(encoded[1:4]), Asked([encoded[4]])])
    predictor = open_predictor(model_folder / "1" / "artifact", None)
    expected = [answer.body for answer in predictor.answer([Request(body) for body in encoded[:5]])]
    assert all(response.error is None for response in responses)
    tensors = [response.output_tensors[0] for response in responses]
    assert [tensor.name() for tensor in tensors] == ["mask"] * 3
    assert [tensor.as_numpy().shape for tensor in tensors] == [(1, 1), (3, 1), (1, 1)]
    assert [body for tensor in tensors for body in tensor.as_numpy().reshape(-1)] == expected


@pytest.mark.parametrize(
    "bad",
    [
        Asked([b""]),
        Asked([b"no image"]),
        Asked([b"\xff\xd8\xff\xe0 a JPEG that ends"]),
        Asked(ValueError("a length beyond the tensor")),
        Asked([b""], parameters="not JSON"),
    ],
    ids=["empty", "text", "truncated", "unreadable", "parameters"],
)
def test_a_bad_request_fails_alone(model_folder, pb_utils, encoded, bad):
    """It gets an error that its caller can mend; its neighbours their answers, as if it were not there."""
    model, _ = opened(model_folder)
    alone = model.execute([Asked([encoded[1]])])[0].output_tensors[0].as_numpy()
    first, middle, last = model.execute([Asked([encoded[1]]), bad, Asked([encoded[1]])])
    assert first.output_tensors[0].as_numpy() == last.output_tensors[0].as_numpy() == alone
    assert middle.error.code == ErrorOfTriton.INVALID_ARG
    assert middle.error.message.startswith("expected ") or '"expected"' in middle.error.message
    assert middle.output_tensors == []


def test_of_several_pictures_the_error_names_the_bad_one(model_folder, pb_utils, encoded):
    """A request is answered whole or not at all."""
    model, _ = opened(model_folder)
    (response,) = model.execute([Asked([encoded[0], b"no image"])])
    assert response.error.message.startswith("picture 2 of 2: ")


def test_what_nobody_waits_for_is_not_computed(model_folder, pb_utils, encoded, monkeypatch):
    """A cancelled request is not read; the one beside it is answered."""
    model, _ = opened(model_folder)
    seen = []
    answer = model._predictor.answer
    monkeypatch.setattr(model._predictor, "answer", lambda requests: seen.extend(requests) or answer(requests))
    gone, kept = model.execute([Asked([encoded[0]], cancelled=True), Asked([encoded[1]])])
    assert gone.error.code == ErrorOfTriton.CANCELLED
    assert kept.error is None
    assert [request.body for request in seen] == [encoded[1]]


def test_parameters_are_the_options_of_http(model_folder, pb_utils, encoded, monkeypatch):
    """``accept`` stands for the header, every other parameter for one of the query; the id goes along."""
    model, _ = opened(model_folder)
    seen = []
    answer = model._predictor.answer
    monkeypatch.setattr(
        model._predictor, "answer", lambda requests: seen.extend(requests) or answer([Request(one.body) for one in requests])
    )
    model.execute([Asked([encoded[0]], parameters='{"accept": "application/json", "confidence": 1}')])
    assert (seen[0].accept, dict(seen[0].query), seen[0].request_id) == ("application/json", {"confidence": "1"}, "7")


@pytest.mark.parametrize(
    ("status", "code"), [(413, "invalid"), (422, "invalid"), (500, "internal"), (503, "unavailable"), (504, "unavailable")]
)
def test_the_kind_of_an_error_is_kept(model_folder, pb_utils, status, code):
    """Triton's front ends make HTTP's 4xx, 500 and 503 of it again."""
    from segdeploy.serve.request import Answer

    model, _ = opened(model_folder)
    model._predictor = types.SimpleNamespace(answer=lambda requests: [Answer(status, b"why", "text/plain")])
    (response,) = model.execute([Asked([b"x"])])
    assert (response.error.message, response.error.code) == ("why", code)


def test_metrics_go_to_triton(model_folder, pb_utils):
    """Counters, gauges and histograms, each told apart by the model's name too."""
    from segdeploy.serve.metrics import PIXEL_SHARE, REQUESTS, STAGE

    _, module = opened(model_folder)
    pb_utils.told.clear()
    observe = module._observer("tiny")
    observe(REQUESTS, 2, {"status": "200"})
    observe(PIXEL_SHARE, 0.5, {"class": "road"})
    observe(STAGE, 12.5, {"stage": "forward"})
    assert pb_utils.told == [
        (REQUESTS.name, {"model": "tiny", "status": "200"}, "increment", 2),
        (PIXEL_SHARE.name, {"model": "tiny", "class": "road"}, "set", 0.5),
        (STAGE.name, {"model": "tiny", "stage": "forward"}, "observe", 12.5),
    ]


def test_a_server_without_metrics_serves(model_folder, pb_utils, encoded):
    """Started with --allow-metrics=false, Triton refuses every family of them."""

    def refuse(self, **_):
        raise pb_utils.TritonModelException("metrics are not enabled")

    pb_utils.MetricFamily.__init__ = refuse
    model, _ = opened(model_folder)
    assert model.execute([Asked([encoded[0]])])[0].error is None


def test_the_bare_graph_is_described_as_onnx_reads_it(onnx_artifact, copied, tmp_path):
    """Names, types and axes of config.pbtxt are those of the file, read by the onnx package; the batch is Triton's own axis."""
    onnx = pytest.importorskip("onnx")
    folder = pack_triton(
        copied(onnx_artifact), name="net", out=tmp_path / "repo", config=ModelConfig(batch_size=4), bare=True, unverified=True
    )
    config, schema = parsed((folder / "config.pbtxt").read_text())
    graph = onnx.load(folder / "1" / "model.onnx").graph
    types_of = {onnx.TensorProto.UINT8: schema.TYPE_UINT8, onnx.TensorProto.FLOAT: schema.TYPE_FP32}

    def described(nodes):
        kinds = [(node.name, node.type.tensor_type) for node in nodes]
        return [(name, types_of[kind.elem_type], [axis.dim_value or -1 for axis in kind.shape.dim][1:]) for name, kind in kinds]

    assert (config.backend, config.max_batch_size) == ("onnxruntime", 4)
    assert [(one.name, one.data_type, list(one.dims)) for one in config.input] == described(graph.input)
    assert [(one.name, one.data_type, list(one.dims)) for one in config.output] == described(graph.output)
    assert sorted(path.name for path in (folder / "1").iterdir()) == ["model.onnx"]
    assert (folder / "manifest.json").is_file()


def test_a_static_graph_is_not_batched(static_onnx):
    """Its whole shape stands in the config, the batch too, and Triton is not told to batch."""
    config, _ = parsed(bare_config("net", static_onnx.manifest, read_graph(static_onnx), ModelConfig(batch_size=1)))
    assert config.max_batch_size == 0
    assert [list(one.dims) for one in config.input] == [[1, 64, 96, 3]]
    assert not config.HasField("dynamic_batching")
    with pytest.raises(InputError, match="1, which is fixed"):
        bare_config("net", static_onnx.manifest, read_graph(static_onnx), ModelConfig(batch_size=2))


def test_a_batch_beyond_the_artifact_is_refused(onnx_artifact, copied, tmp_path):
    """The network alone takes what it was exported for; nothing is written."""
    with pytest.raises(InputError, match="1 to 16"):
        pack_triton(
            copied(onnx_artifact),
            name="net",
            out=tmp_path / "repo",
            config=ModelConfig(batch_size=17),
            bare=True,
            unverified=True,
        )
    assert not (tmp_path / "repo").exists()


def test_a_graph_with_other_tensors_than_the_manifest_is_refused(onnx_artifact):
    """What the config would say of it would be wrong."""
    manifest = onnx_artifact.manifest
    other = msgspec.structs.replace(manifest, outputs=manifest.outputs[:1])
    with pytest.raises(ArtifactError, match="logits"):
        read_graph(replace(onnx_artifact, manifest=other))


def test_all_profiles_of_an_engine_are_used(make_manifest):
    """Triton takes the first alone, where it is told of none."""
    one = Profile(min=(1, 8, 8), opt=(1, 16, 24), max=(4, 64, 64))
    manifest = make_manifest(format="tensorrt", engine=Engine(profiles=(one, one)))
    graph = [Tensor("image", "TYPE_UINT8", (-1, -1, -1, 3))], [Tensor("mask", "TYPE_UINT8", (-1, -1, -1))]
    config, schema = parsed(bare_config("net", manifest, graph, ModelConfig(batch_size=4)))
    assert config.backend == "tensorrt"
    (group,) = config.instance_group
    assert (group.kind, list(group.profile)) == (schema.ModelInstanceGroup.KIND_GPU, ["0", "1"])
    assert not parsed(predictor_config("net", manifest, ModelConfig(batch_size=1)))[0].instance_group[0].profile


def test_what_triton_cannot_run_bare_is_refused(torchscript_artifact, tensorrt_artifact, tmp_path):
    """TensorRT-RTX's engines are not TensorRT's; other formats have the predictor."""
    with pytest.raises(ArtifactError, match="TensorRT-RTX"):
        pack_triton(tensorrt_artifact, name="net", out=tmp_path / "repo", config=ModelConfig(), bare=True, unverified=True)
    with pytest.raises(ArtifactError, match="leave --bare out"):
        pack_triton(torchscript_artifact, name="net", out=tmp_path / "repo", config=ModelConfig(), bare=True, unverified=True)
    assert not (tmp_path / "repo").exists()
