"""The page and what serves it: without a browser what it lets through, and in Chromium what a person sees."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import shutil
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from segdeploy.base.errors import InputError
from segdeploy.runtime.predictor import predict_labels
from segdeploy.serve.page import server as page_server
from segdeploy.serve.page.server import start_page
from segdeploy.serve.predictor import Predictor
from segdeploy.serve.request import request_of_http

EVIL = "<img src=x onerror=\"document.title='owned'\">"


@contextlib.contextmanager
def engine_of(session):
    """The predictor behind the standard library's server, as an engine: its URL, and what it was asked."""
    predictor, seen = Predictor(session), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append((self.path, dict(self.headers)))
            body = self.rfile.read(int(self.headers["Content-Length"]))
            (answer,) = predictor.answer([request_of_http(body, dict(self.headers))])
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/predictions/tiny", seen
        server.shutdown()


@pytest.fixture
def page(onnx_session):
    """A page in front of the tiny model: its address, and what the engine was asked."""
    with engine_of(onnx_session) as (url, seen), start_page(url, {"Authorization": "Bearer T0ken"}) as address:
        yield address, seen


def ask(address, path="", method="GET", body=None, **headers):
    """A request of one's own making."""
    place = urllib.parse.urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=10)
    try:
        connection.request(method, place.path + path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["", "page.css", "page.js", "rle.js"])
def test_the_page_runs_nothing_of_elsewhere(page, path):
    """Every part of it is served with a policy under which only its own files run, nothing frames it, nothing is sent away."""
    status, body, headers = ask(page[0], path)
    assert status == 200
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers
    assert b"http:" not in body
    assert b"https:" not in body
    assert b"innerHTML" not in body


def test_a_picture_goes_to_the_engine_with_the_token(page, encoded):
    """And comes back as the engine's JSON; the token never does."""
    address, seen = page
    status, body, _ = ask(address, "predict", "POST", encoded[0], **{"Content-Type": "image/png"})
    assert status == 200
    assert json.loads(body)["size"]["picture"] == [75, 100]
    (path, headers), *_ = seen
    assert path == "/predictions/tiny"
    assert headers["Authorization"] == "Bearer T0ken"
    assert b"T0ken" not in body + ask(address)[1] + ask(address, "page.js")[1]


def test_what_is_no_picture_is_the_engines_own_error(page):
    """Its status and its words."""
    status, body, _ = ask(page[0], "predict", "POST", b"no image")
    assert 400 <= status < 500
    assert json.loads(body)["expected"].startswith("an image")


def test_nobody_else_gets_in(page, encoded):
    """Another user who knows the port alone, and another site whose name leads to this address, reach nothing."""
    address, seen = page
    place = urllib.parse.urlsplit(address)
    root = f"http://{place.netloc}/"
    for path in ("", "predict", "page.js", "x" * 32 + "/", place.path.strip("/")[:-1] + "/"):
        assert ask(root, path)[0] == 404
        assert ask(root, path, "POST", encoded[0])[0] == 404
    assert ask(address, Host="evil.example")[0] == 404
    assert ask(address, "predict", "POST", encoded[0], Host=f"evil.example:{place.port}")[0] == 404
    assert not seen


@pytest.mark.parametrize("path", ["../server.py", "..%2fserver.py", "server.py", "__init__.py", "page.css/../server.py"])
def test_no_other_file_is_served(page, path):
    """Only the four parts of the page."""
    assert ask(page[0], path)[0] == 404


def test_a_body_without_an_end_is_refused(page, monkeypatch):
    """Of an unsaid, a wrong or too large a length: before it is read."""
    monkeypatch.setattr(page_server, "_LARGEST_BODY_BYTES", 1000)
    for length in ("1001", "-1", "x", "9" * 30):
        assert ask(page[0], "predict", "POST", b"12", **{"Content-Length": length})[0] == 413
    assert not page[1]


def test_an_engine_that_is_gone_is_said():
    """502, in the words that the page shows."""
    with start_page("http://127.0.0.1:9/predictions/x", {}) as address:
        status, body, _ = ask(address, "predict", "POST", b"x")
    assert (status, json.loads(body)["expected"]) == (502, "an answer from the engine")


def test_a_taken_port_is_one_line(page):
    """With the way out."""
    port = urllib.parse.urlsplit(page[0]).port
    with pytest.raises(InputError, match="choose another --page-port"), start_page("http://127.0.0.1:1/x", {}, port=port):
        pass


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium without a window; one for all tests of this file."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium and chromium-driver are not installed")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
        *("disable-component-update", "disable-sync", "disable-dev-shm-usage", "force-color-profile=srgb"),
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    opened.set_page_load_timeout(30)
    yield opened
    opened.quit()


def wait_for(browser, script):
    """What a script gives, once it gives something."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 20, poll_frequency=0.05).until(lambda one: one.execute_script(script))


def choose(browser, path):
    """Choose a file, as in the browser's dialogue."""
    from selenium.webdriver.common.by import By

    browser.find_element(By.ID, "file").send_keys(str(path))


CANVAS = """
const canvas = document.getElementById(arguments[0]);
return [canvas.width, canvas.height, Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)];
"""


def pixels_of(browser, canvas):
    width, height, values = browser.execute_script(CANVAS, canvas)
    return np.array(values, np.uint8).reshape(height, width, 4)


@pytest.fixture
def picture(encoded, tmp_path):
    """A file with a name that is HTML, of a picture."""
    path = tmp_path / EVIL.replace("/", "")
    path.write_bytes(encoded[0])
    return path


@pytest.mark.slow
def test_a_person_sees_the_mask(page, browser, picture, onnx_session, encoded):
    """The picture, over it every pixel in its class's colour, shares that are right; classes go off and on; no script error."""
    from selenium.webdriver.common.by import By

    from segdeploy.images.decode import decode_image

    browser.get(page[0])
    choose(browser, picture)
    wait_for(browser, "return document.querySelectorAll('#legend li').length")
    image = decode_image(encoded[0], "test")
    labels = predict_labels(onnx_session, image)
    manifest = onnx_session.artifact.manifest
    palette = np.array(manifest.palette, np.uint8)
    assert np.array_equal(pixels_of(browser, "picture")[..., :3], image)
    mask = pixels_of(browser, "mask")
    assert np.array_equal(mask[..., :3], palette[labels])
    assert (mask[..., 3] == 255).all()

    counts = np.bincount(labels.ravel(), minlength=len(palette))
    expected = {manifest.classes[label]: 100 * counts[label] / labels.size for label in np.flatnonzero(counts)}
    lines = browser.find_elements(By.CSS_SELECTOR, "#legend li")
    for line in lines:
        name, share = (line.find_element(By.CLASS_NAME, part).text for part in ("class", "share"))
        assert abs(expected.pop(name) - float(share.removesuffix(" %").removeprefix("< "))) <= 0.1
    assert not expected

    first = lines[0].find_element(By.CLASS_NAME, "class").text
    lines[0].find_element(By.TAG_NAME, "input").click()
    gone = pixels_of(browser, "mask")[..., 3] == 0
    assert np.array_equal(gone, labels == manifest.classes.index(first))
    browser.find_element(By.ID, "none").click()
    assert not pixels_of(browser, "mask")[..., 3].any()
    browser.find_element(By.ID, "all").click()
    assert np.array_equal(pixels_of(browser, "mask"), mask)

    browser.execute_script("const o = document.getElementById('opacity'); o.value = 25; o.dispatchEvent(new Event('input'))")
    assert browser.execute_script("return getComputedStyle(document.getElementById('mask')).opacity") == "0.25"
    stages = [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, "#timings td:first-child")]
    assert {"decode", "forward"} <= set(stages)
    # Its name is shown as it is.
    assert browser.find_element(By.ID, "name").text.startswith(picture.name)
    assert browser.title == "segdeploy"
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.slow
def test_names_of_classes_are_text(browser, onnx_session, picture, tmp_path):
    """A model whose classes, and whose name, are HTML changes nothing of the page."""
    from dataclasses import replace

    from selenium.webdriver.common.by import By

    from segdeploy.runtime.open import open_session

    artifact = onnx_session.artifact
    names = tuple(f"{EVIL}{number}" for number in range(len(artifact.manifest.classes)))
    evil = replace(artifact, manifest=msgspec.structs.replace(artifact.manifest, classes=names, name=EVIL))
    with open_session(evil, "cpu") as session, engine_of(session) as (url, _), start_page(url, {}) as address:
        browser.get(address)
        choose(browser, picture)
        wait_for(browser, "return document.querySelectorAll('#legend li').length")
        shown = [one.text for one in browser.find_elements(By.CLASS_NAME, "class")]
        assert shown
        assert all(name in names for name in shown)
        assert EVIL in browser.find_element(By.ID, "model").text
        assert browser.find_elements(By.CSS_SELECTOR, "img") == []
        assert browser.title == "segdeploy"


@pytest.mark.slow
def test_an_error_is_shown_and_the_next_picture_works(page, browser, tmp_path, encoded):
    """What was expected, what came, what to do; and it goes away."""
    from selenium.webdriver.common.by import By

    bad, good = tmp_path / "bad.png", tmp_path / "good.png"
    bad.write_bytes(b"no image")
    good.write_bytes(encoded[1])
    browser.get(page[0])
    choose(browser, bad)
    wait_for(browser, "return !document.getElementById('error').hidden")
    text = browser.find_element(By.ID, "error").text
    assert "Expected an image" in text
    assert "What to do: pass a JPEG" in text
    choose(browser, good)
    wait_for(browser, "return document.querySelectorAll('#legend li').length")
    assert not browser.find_element(By.ID, "error").is_displayed()


@pytest.mark.slow
def test_a_turned_photograph_lies_under_its_mask(page, browser, tmp_path, onnx_session):
    """EXIF's orientation is applied by the server and by the browser alike."""
    random = np.random.default_rng(5)
    blocks = Image.fromarray(random.integers(0, 256, (3, 4, 3), np.uint8)).resize((96, 64), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter to the right
    stored = io.BytesIO()
    blocks.save(stored, "PNG", exif=exif)
    path = tmp_path / "turned.png"
    path.write_bytes(stored.getvalue())
    browser.get(page[0])
    choose(browser, path)
    wait_for(browser, "return document.querySelectorAll('#legend li').length")
    shown = pixels_of(browser, "picture")[..., :3]
    from segdeploy.images.decode import decode_image

    assert np.array_equal(shown, decode_image(stored.getvalue(), "test"))


@pytest.mark.parametrize("width", [360, 800, 1440])
@pytest.mark.slow
def test_nothing_sticks_out(page, browser, picture, width):
    """On a telephone, a tablet and a desktop; ``SEGDEPLOY_SCREENSHOTS`` is a folder for what it looked like."""
    browser.set_window_size(width, 900)
    # A window of Chromium's is never narrower than 500: a telephone is emulated.
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        browser.get(page[0])
        for moment in ("empty", "found"):
            if moment == "found":
                choose(browser, picture)
                wait_for(browser, "return document.querySelectorAll('#legend li').length")
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            if folder := os.environ.get("SEGDEPLOY_SCREENSHOTS"):
                browser.save_screenshot(str(Path(folder) / f"{width}-{moment}.png"))
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
