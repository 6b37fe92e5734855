"""examples/share.py: the card, the files, and an upload to a server that stands for the hub."""

import base64
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from builders import TINY, random_unet
from commands import refused

import minddpm
from minddpm.commands.model_card import CARD, NO_LICENSE
from minddpm.pipeline import save_pipeline
from minddpm.training.run_directory import RunDirectory

MODEL_FILES = {
    CARD, "model_index.json", "samples.png", "scheduler/scheduler_config.json", "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
}  # fmt: skip

OLD = "| FID | 7 |\n\n<!-- weights 00000000 -->"  # metrics of other weights


@pytest.fixture
def run(tmp_path):
    """A run directory with all that training leaves."""
    path = tmp_path / "run"
    process = minddpm.GaussianDiffusion(minddpm.schedules.linear(50))
    save_pipeline(random_unet(TINY), process, path)
    RunDirectory(path).write_info({}, {})
    for name in ("samples.png", "forward.png", "training_state.safetensors", ".samples.png.1.tmp"):
        (path / name).write_bytes(name.encode())
    return path


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does to whoever has the token, and keeps what is committed."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        if self.headers["Authorization"] != "Bearer hf_right":
            self.answer({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/repos/create":
            server.created = json.loads(body)
            self.answer({"url": f"{server.address}/me/photos", "name": "me/photos"})
        elif self.path == "/api/validate-yaml":  # of the card
            assert "license: mit" in json.loads(body)["content"]
            self.answer({"errors": [], "warnings": []})
        elif self.path == "/api/models/me/photos/preupload/main":
            files, how = json.loads(body)["files"], {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [{"path": f["path"], **how} for f in files]})
        elif self.path == "/api/models/me/photos/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    server.files[line["value"]["path"]] = content
            self.answer({"commitUrl": f"{server.address}/me/photos/commit/1", "commitOid": "1"})
        else:
            self.answer({"error": f"POST {self.path}"}, 404)

    def do_GET(self):
        sha = {"id": "me/photos", "sha": "0" * 40, "siblings": [], "private": False, "tags": []}
        self.answer(sha if self.path.startswith("/api/models/me/photos") else {})

    def answer(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    """A server on this machine that huggingface_hub takes for the hub."""
    constants = pytest.importorskip("huggingface_hub.constants")
    server = HTTPServer(("127.0.0.1", 0), Hub)
    server.address, server.files = f"http://127.0.0.1:{server.server_port}", {}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_files_are_shown_and_the_card_is_written(command, run):
    code, stdout, stderr = command("share", "--model", run)
    assert code == 0, stderr
    assert {line.split(f"{run}/")[1] for line in stdout.splitlines()} == MODEL_FILES
    card = (run / CARD).read_text()
    assert NO_LICENSE in card
    (run / CARD).write_text(card.replace("# run", "# Mine").replace("Not measured yet", OLD))
    assert command("share", "--model", run)[0] == 0
    assert (run / CARD).read_text() == card.replace("# run", "# Mine")
    refused(command("share", "--model", run / "nowhere"), "nowhere")
    refused(command("share", "--model", run, "--push-to-hub", "me/photos"), CARD, "licence")


def test_a_model_arrives_at_the_hub(command, run, hub, tmp_path):
    assert command("share", "--model", run)[0] == 0
    card = (run / CARD).read_text()
    (run / CARD).write_text(card.replace(NO_LICENSE, "license: mit"))
    push = ["share", "--model", run, "--push-to-hub", "me/photos"]
    code, stdout, stderr = command(*push, "--private")
    assert code == 0, stderr
    assert f"uploaded to {hub.address}/me/photos" in stdout
    assert (hub.created["name"], hub.created["organization"]) == ("photos", "me")
    assert hub.created.get("private") or hub.created["visibility"] == "private"
    assert set(hub.files) == MODEL_FILES
    for name, content in hub.files.items():
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        assert content == (run / name).read_bytes()
    assert minddpm.generate(minddpm.load(tmp_path / "copy"), 1, "ddim", 1).shape == (1, 8, 8, 1)


def test_the_hub_refuses(command, run, hub, monkeypatch):
    assert command("share", "--model", run)[0] == 0
    card = (run / CARD).read_text()
    (run / CARD).write_text(card.replace(NO_LICENSE, "license: mit"))
    push = ["share", "--model", run, "--push-to-hub"]
    refused(command(*push, "a/b/c"), "a/b/c")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused(command(*push, "me/photos"), "401", "hf auth login")
    assert hub.files == {}


def test_no_network(command, run, hub, monkeypatch):
    assert command("share", "--model", run)[0] == 0
    card = (run / CARD).read_text()
    (run / CARD).write_text(card.replace(NO_LICENSE, "license: mit"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens there, and no one else can have the port
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        refused(command("share", "--model", run, "--push-to-hub", "me/photos"), "the network")
    assert hub.files == {}
