"""What strangers and other users of the machine can try against a server as documented. Whatever they do, it answers others."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import time
import urllib.parse
import warnings
import zipfile

import numpy as np
import pytest

from segdeploy.base.errors import InputError, ServeError
from segdeploy.images.decode import decode_image
from segdeploy.runtime.predictor import predict_labels
from segdeploy.serve.client import predict
from segdeploy.serve.server import start

pytestmark = pytest.mark.slow
NOBODY = 65534


@pytest.fixture(autouse=True)
def others_are_answered(server, onnx_session, encoded):
    """After each attack a client with the token gets the right mask."""
    yield
    mask = predict(server.url, encoded[0], token=server.token)
    assert np.array_equal(mask, predict_labels(onnx_session, decode_image(encoded[0], "test")))


@pytest.fixture
def connect(server):
    """Opens connections to the public port, as anybody can."""
    address = urllib.parse.urlsplit(server.url)
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection((address.hostname, address.port), timeout=10))


def answer_to(connection, data):
    """The status of what comes back, 0 where the connection just ends."""
    connection.sendall(data)
    head = connection.recv(4096)
    return int(head.split()[1]) if head else 0


def request(line, *headers, body=b""):
    """As HTTP sends it."""
    lines = [f"{line} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.mark.parametrize(
    "header",
    ["X: none", "Authorization: Bearer wrong", "Authorization: Bearer ", "Authorization: Basic eDp5", "Authorization: "],
)
def test_without_the_token_nothing_is_answered(server, connect, encoded, header):
    """Neither predictions nor /ping, by any of TorchServe's ways to ask for them; an error and no picture."""
    for line in (
        "POST /predictions/tiny-1.x",
        "POST /predictions/tiny-1.x/1.0",
        "POST /models/tiny-1.x/invoke",
        "POST /invocations",
        "POST /v1/models/tiny-1.x:predict",
        "POST /v2/models/tiny-1.x/infer",
        "POST /explanations/tiny-1.x",
        "GET /ping",
        "OPTIONS /predictions/tiny-1.x",
    ):
        assert answer_to(connect(), request(line, header, body=encoded[0])) in (400, 404), line


def test_the_managements_token_asks_for_no_predictions_and_the_other_way_round(server, connect):
    """Each token is for its own interface."""
    other = server.management.token("management")
    assert other != server.token
    assert answer_to(connect(), request("GET /ping", f"Authorization: Bearer {other}")) == 400
    assert answer_to(connect(), request("GET /ping", f"Authorization: Bearer {server.token}")) == 200


def test_models_cannot_be_registered_removed_or_scaled_from_outside(server, connect):
    """On the public port not even with the token; on the management's socket, its owner cannot register or remove either."""
    token = f"Authorization: Bearer {server.token}"
    for line in (
        "POST /models?url=http://127.0.0.1:9/x.mar",
        "DELETE /models/tiny-1.x",
        "PUT /models/tiny-1.x?min_worker=0",
        "PUT /models/tiny-1.x/1.0/set-default",
        "GET /models",
    ):
        assert answer_to(connect(), request(line, token)) in (404, 405), line
    assert server.management.request("POST", "/models?url=http://127.0.0.1:9/x.mar")[0] == 405
    assert server.management.request("DELETE", "/models/tiny-1.x")[0] == 405


def test_another_user_reaches_neither_the_management_nor_the_tokens(server, connect):
    """The socket, the file of tokens and the folder are closed to others; the public port wants the token from them too."""
    files = (server.management.key_file, server.header_file)
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600] * 2
    assert stat.S_IMODE(server.log.parent.stat().st_mode) == 0o700
    if os.getuid() != 0:
        pytest.skip("only root can try it as another user")
    assert as_nobody(lambda: socket.socket(socket.AF_UNIX).connect(str(server.management.path))) == errno.EACCES
    for path in (*files, server.log):
        assert as_nobody(lambda path=path: path.read_text()) == errno.EACCES
    assert as_nobody(lambda: list(server.log.parent.iterdir())) == errno.EACCES
    assert as_nobody(lambda: sys_exit(answer_to(connect(), request("GET /ping")) != 400)) == 0


def test_grpc_wants_the_token_too(server):
    """TorchServe cannot be told to leave gRPC out: on loopback, its management is as closed as the other."""
    grpc = pytest.importorskip("grpc", reason="grpcio is not installed")
    config = dict(line.split("=", 1) for line in (server.log.parent / "config.properties").read_text().splitlines())
    with grpc.insecure_channel(
        f"127.0.0.1:{config['grpc_management_port']}", options=[("grpc.enable_http_proxy", 0)]
    ) as channel:
        scale = channel.unary_unary("/org.pytorch.serve.grpc.management.ManagementAPIsService/ScaleWorker")
        for metadata in ((), (("authorization", f"Bearer {server.token}"),)):
            with pytest.raises(grpc.RpcError, match="Token Authorization failed"):
                scale(b"\x0a\x08tiny-1.x", timeout=10, metadata=metadata)


@pytest.mark.parametrize(
    "name",
    ["../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/config.properties", "tiny-1.x/../../models", "a%00b", "-" * 4000],
)
def test_names_lead_nowhere(server, connect, name):
    """A model's name is looked up among those that are loaded, and never on the disk."""
    token = f"Authorization: Bearer {server.token}"
    assert answer_to(connect(), request(f"POST /predictions/{name}", token)) in (400, 404)


@pytest.mark.parametrize(
    "sent",
    [b"GET /ping HTTP/1.1\r\nX: " + b"a" * 200_000, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", b"nonsense\r\n\r\n"],
)
def test_a_huge_header_and_no_http_at_all_are_refused(connect, sent):
    """With 400; where the connection ends while we still send, the answer may be gone with it."""
    with contextlib.suppress(ConnectionError):
        assert answer_to(connect(), sent) in (400, 0)


def test_a_body_that_is_too_large_is_refused_before_it_comes(server, connect):
    """By the length that its head tells."""
    head = request("POST /predictions/tiny-1.x", f"Authorization: Bearer {server.token}")
    assert answer_to(connect(), head.replace(b"Content-Length: 0", b"Content-Length: 99999999999")) == 413


def test_a_body_that_ends_early_is_forgotten(server, connect, encoded):
    """Half a picture, and the client goes away; or it stays and sends nothing more: then it is sent away."""
    whole = request("POST /predictions/tiny-1.x", f"Authorization: Bearer {server.token}", body=encoded[0])
    with connect() as gone:
        gone.sendall(whole[:-10])
    staying = connect()
    staying.sendall(whole[:-10])
    assert predict(server.url, encoded[0], token=server.token).shape == (75, 100)
    assert staying.recv(100) == b""


def test_a_slow_client_is_sent_away(connect):
    """A header line now and then, for ever: TorchServe would wait; the front does not."""
    slow = connect()
    slow.sendall(b"GET /ping HTTP/1.1\r\n")
    began = time.monotonic()
    with pytest.raises(ConnectionError):
        while time.monotonic() < began + 10:
            slow.sendall(b"X: y\r\n")
            time.sleep(0.1)


def test_200_connections_that_say_nothing_keep_nobody_out(server, connect, encoded):
    """Nor do 300, which are more than are kept."""
    silent = [connect() for _ in range(300)]
    assert predict(server.url, encoded[0], token=server.token).shape == (75, 100)
    assert len(silent) == 300


def test_an_archive_that_writes_outside_is_not_served(archive, tmp_path):
    """Zip slip: refused before anything is unpacked or started."""
    evil = tmp_path / "evil.mar"
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(evil, "w") as copy:
        for entry in whole.namelist():
            copy.writestr(entry, whole.read(entry))
        copy.writestr("../../../evil.py", "evil")
    with pytest.raises(InputError, match="whoever made it"), start(evil):
        pass


def as_nobody(attempt):
    """Try something as a user without rights, in a process of its own: 0, or the number of the error of the system."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: the child does little and ends
        child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            attempt()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno)
        finally:
            os._exit(255)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def sys_exit(wrong):
    """Ends the process of an attempt that went otherwise than it should."""
    if wrong:
        os._exit(254)


def test_no_server_is_told_from_a_refusal(server):
    """A client without the token is told by the server, and not that there is none."""
    with pytest.raises(ServeError, match="400.*Token"):
        predict(server.url, b"x", token="wrong")
