"""HTTP's headers as a request, names of classes as options, and means of what was seen."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from segdeploy.serve.drift import Drift
from segdeploy.serve.options import parse_options
from segdeploy.serve.request import request_of_http


def test_headers_are_read_in_any_case():
    """Type, accept, options, id and query arrive; what is not there is empty."""
    headers = {"CONTENT-TYPE": "image/png", "accept": "a/b", "x-segdeploy-options": "as=json", "X-REQUEST-ID": "r-1"}
    request = request_of_http(b"x", headers, {"size": "network"}, request_id="server's")
    assert (request.content_type, request.accept, request.options) == ("image/png", "a/b", "as=json")
    assert (request.request_id, request.query, request.body) == ("r-1", {"size": "network"}, b"x")
    bare = request_of_http(b"", {})
    assert (bare.content_type, bare.accept, bare.options, bare.request_id, bare.query) == ("", "", "", "", {})
    assert (bare.deadline, bare.problem, bare.parts) == (None, None, None)


@pytest.mark.parametrize("given", ["", "a\r\nSet-Cookie: x=1", "größe", "x" * 129, "\x00"])
def test_an_id_that_could_break_a_header_or_a_log_is_replaced(given):
    """By the server's own."""
    assert request_of_http(b"", {"X-Request-Id": given}, request_id="own").request_id == "own"


def test_a_deadline_is_by_this_processs_clock():
    """Seconds since 1970 become the same moment by the clock that nobody sets."""
    request = request_of_http(b"", {"X-Request-Deadline": str(time.time() + 100)})
    assert request.deadline == pytest.approx(time.monotonic() + 100, abs=1)


def test_a_class_may_be_called_like_a_number():
    """Its name is heard first, and each label counts once."""
    wanted = parse_options({"classes": " 2 ,road,0, road"}, "", ("road", "2", "car"))
    assert wanted is not None
    assert wanted.classes == (1, 0)


def test_drift_is_the_mean_since_the_last_time(monkeypatch):
    """At once for the first picture, then when the time is up; classes that did not occur count as none."""
    now = [0.0]
    monkeypatch.setattr("segdeploy.serve.drift.time", SimpleNamespace(monotonic=lambda: now[0]))
    drift = Drift(("sky", "road"), interval_s=10)
    assert drift.add({0: 1.0}) == {"sky": 1.0, "road": 0.0}
    assert drift.add({1: 1.0}) == {}
    assert drift.add({0: 0.5, 1: 0.5}) == {}
    now[0] = 10
    assert drift.add({1: 0.9, 0: 0.1}) == {"sky": pytest.approx(0.2), "road": pytest.approx(0.8)}
    now[0] = 20
    assert drift.add({0: 1.0}) == {"sky": 1.0, "road": 0.0}
