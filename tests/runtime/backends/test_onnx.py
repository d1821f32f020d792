"""What is onnxruntime's own of running ONNX files."""

import pytest

from segdeploy.runtime import open_session

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("threads", [1, 3])
def test_threads(onnx_artifact, threads):
    """onnxruntime itself says that it uses as many threads as were asked for."""
    with open_session(onnx_artifact, "cpu", threads=threads) as session:
        assert session._session.get_session_options().intra_op_num_threads == threads
