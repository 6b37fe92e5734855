"""The demo's page in Gradio: its functions as an API, and in headless Chromium, wide and narrow."""

import json
import os
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from urllib.request import Request, urlopen

import pytest
from browser import CHROMIUM
from builders import save_tiny_pipeline
from commands import EXAMPLES, NUMPY

pytestmark = [
    pytest.mark.skipif(find_spec("gradio") is None, reason="Gradio is not installed"),
    pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as POSIX systems do"),
]


@pytest.fixture(params=[("grey", 0), ("colour", 3)], ids=["grey", "colour with classes"])
def address(request, tmp_path):
    """The address of the page, served by the command until Ctrl-C."""
    model = save_tiny_pipeline(tmp_path / "model", *request.param)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, EXAMPLES / "demo.py", "--model", model, "--port", str(port), *NUMPY],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "GRADIO_TEMP_DIR": str(tmp_path / "gradio")},
    )  # fmt: skip
    for printed in process.stdout:
        if "open http" in printed:
            break
    yield f"http://127.0.0.1:{port}/"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert f"http://127.0.0.1:{port} in a browser; Ctrl-C ends" in printed
    # Gradio's server prints one if a browser leaves in the middle of a request.
    _, *errors = stderr.split("Exception in ASGI application")
    assert all("ClientDisconnect" in text for text in errors), stderr
    assert errors or "Traceback" not in stderr, stderr


def call(address, name, *values):
    """Call a function of the page; return the events that it answers: (name, data)."""
    body = json.dumps({"data": values}).encode()
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(f"{address}gradio_api/call/{name}", body, headers)) as answer:
        event = json.load(answer)["event_id"]
    with urlopen(f"{address}gradio_api/call/{name}/{event}") as answer:
        lines = answer.read().decode().splitlines()
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return list(zip(names, data, strict=True))


def test_the_functions_of_the_page_answer_with_frames_or_a_sentence(address):
    everything, none = "all classes in turn", "unknown"
    *frames, end = call(address, "sample", 3, everything, 1, "ddim", 4, 5)
    assert frames
    assert end[0] == "complete"
    assert "step 4, t = 0" in end[1][0]
    *_, end = call(address, "mix", None, none, 3, None, none, 4, 1, 3)
    assert end[1][0].count("data:image/png") == 2
    for name, values, words in (
        ("sample", (3, everything, 1, "ddim", 4, None), "the seed"),
        ("complete", (None, "left", none, 1, 4, 1, 0), "draw something"),
    ):
        *_, (event, data) = call(address, name, *values)
        assert event == "error"
        assert words in str(data)


@pytest.mark.skipif(
    CHROMIUM is None or find_spec("playwright") is None, reason="needs Chromium and Playwright"
)
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_works_in_a_browser_and_loads_nothing_else(address, width):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, errors = browser.new_page(viewport={"width": width, "height": 900}), []
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on(
            "request",
            lambda r: (
                None if r.url.startswith((address, "data:", "blob:")) else errors.append(r.url)
            ),
        )
        page.goto(address)
        page.wait_for_selector("text=step 20, t = 0")
        page.get_by_role("tab", name="Complete").click()
        draw(page, (0.3, 0.35), (0.7, 0.42))  # the upper half, also of an image that is wide
        page.get_by_role("button", name="Complete").click()
        page.wait_for_selector("text=step 20, t = 0 >> visible=true")
        page.get_by_role("tab", name="Mix").click()
        page.get_by_role("button", name="Mix").click()
        page.wait_for_selector("text=step 20, t = 0 >> visible=true")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
    assert errors == []


def draw(page, start, end):
    """Draw a line on the visible canvas, from start to end in shares of its width and height."""
    canvas = page.locator("canvas >> visible=true").first
    canvas.wait_for()
    page.wait_for_timeout(2000)  # it accepts strokes only some time later, and does not say when
    box = canvas.bounding_box()
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=10)
    page.mouse.up()
    page.wait_for_timeout(500)
