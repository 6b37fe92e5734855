"""The demo without its page: what it computes at each step, its images, and its refusals."""

import importlib.util
import socket
import threading

import numpy as np
import pytest
from builders import WIDE, random_unet
from builders import save_tiny_pipeline as save
from commands import NUMPY, refused

import minddpm
import refusals
from minddpm import backend, random
from minddpm.commands.demo_frames import COLUMNS, Demo, End, Frame
from minddpm.commands.demo_images import drawn_image, empty_canvas, enlargement, figures
from minddpm.commands.known_part import PARTS, known_mask
from minddpm.diffusion.sampling import ddim, invert, slerp
from minddpm.diffusion.sampling.steps import timesteps
from minddpm.diffusion.scheduler_file import few_steps
from minddpm.generate import SAMPLERS, conditioned, generate
from minddpm.pipeline import load, save_pipeline


@pytest.fixture(params=["grey", "colour"])
def demo(request, tmp_path):
    """A model with three classes."""
    made = Demo(save(tmp_path / "model", request.param, classes=3))
    yield made
    made.close()


@pytest.fixture
def grey(tmp_path):
    """A model without classes."""
    made = Demo(save(tmp_path / "grey", "grey"))
    yield made
    made.close()


def half(demo):
    """Return an image whose left half is not empty."""
    image = np.full((1, *demo.size, demo.channels), -1, np.float32)
    image[:, 2:5, 1:3] = 1
    return image


# --- samples -------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [None, 2])
def test_a_sample_is_that_of_generate(demo, label):
    *_, last = demo.sample(5, label, 2.0, "ddim", 4, 7)
    labels = np.array([0, 1, 2, 0, 1]) if label is None else np.full(5, 2)
    model = demo.unet, demo.diffusion
    np.testing.assert_array_equal(
        last.x, generate(model, 5, "ddim", 4, seed=7, labels=labels, guidance=2.0)
    )


def a_step(i):
    """Return a step whose x is i."""
    return minddpm.samplers.Step(np.full(1, i), np.full(1, -i), 10 - i)


def replace_ddim(monkeypatch, steps):
    """Let the demo show what steps() yields instead of samples."""
    monkeypatch.setitem(SAMPLERS, "ddim", lambda *arguments, **options: steps())


def test_each_step_is_a_frame(grey, monkeypatch):
    read = threading.Semaphore(1)

    def steps():
        for i in range(3):
            read.acquire()
            yield a_step(i)

    replace_ddim(monkeypatch, steps)
    frames = []
    for frame in grey.sample(1, None, 1.0, "ddim", 3, 0):
        frames.append(frame)
        read.release()
    assert [(int(frame.x[0]), int(frame.pred_x0[0])) for frame in frames] == [
        (0, 0),
        (1, -1),
        (2, -2),
    ]
    assert frames[1].text.startswith("step 2, t = 9, ")


def test_a_slow_reader_gets_the_newest_frame_and_delays_nothing(grey, monkeypatch):
    begun, done = threading.Event(), threading.Event()

    def steps():
        yield a_step(0)
        begun.wait()
        yield from map(a_step, range(1, 5))
        done.set()

    replace_ddim(monkeypatch, steps)
    frames = grey.sample(1, None, 1.0, "ddim", 5, 0)
    next(frames)
    begun.set()
    assert done.wait(60)
    assert [int(frame.x[0]) for frame in frames] == [4]


def test_a_reader_that_leaves_ends_the_work(grey, monkeypatch):
    left, finished = threading.Event(), []

    def steps():
        yield a_step(0)
        left.wait(60)
        yield a_step(1)
        finished.append(True)

    replace_ddim(monkeypatch, steps)
    frames = grey.sample(1, None, 1.0, "ddim", 3, 0)
    next(frames)
    frames.close()
    left.set()
    replace_ddim(monkeypatch, lambda: [a_step(7)])
    (frame,) = grey.sample(1, None, 1.0, "ddim", 3, 0)  # waits for the first
    assert (frame.x[0], finished) == (7, [])


def test_closing_ends_what_runs_and_what_waits(grey, monkeypatch):
    finished = []

    def steps():
        yield a_step(0)
        grey._closed.wait(60)
        yield a_step(1)
        finished.append(True)

    replace_ddim(monkeypatch, steps)
    running, waiting = (grey.sample(1, None, 1.0, "ddim", 3, 0) for _ in range(2))
    next(running)
    reader = threading.Thread(target=list, args=(waiting,))
    reader.start()
    grey.close()
    assert list(running) == []
    reader.join(60)
    assert (reader.is_alive(), finished) == (False, [])


@pytest.mark.usefixtures("numba_with_its_threads")
def test_requests_of_one_size_repeat_one_recording(tmp_path, monkeypatch):
    """A recording of another size is forgotten, because it holds the memory of its batch."""
    unet = random_unet({**WIDE, "sample_size": 8})
    save_pipeline(unet, minddpm.GaussianDiffusion(minddpm.schedules.cosine(30)), tmp_path)
    demo = Demo(tmp_path)
    eager, forward = [], demo.unet.forward

    def spy(x, t):
        eager.append(len(x))
        return forward(x, t)

    monkeypatch.setattr(demo.unet, "forward", spy)
    samples = {}
    for count, recorded in ((2, False), (2, True), (3, False), (2, False)):
        eager.clear()
        *_, last = demo.sample(count, None, 1.0, "ddim", 5, 0)
        assert (eager == []) == recorded
        samples.setdefault(count, last.x)
        np.testing.assert_array_equal(last.x, samples[count])
    ends = End(half(demo), None, 3), End(None, None, 4)
    for recorded in (False, True):
        eager.clear()
        list(demo.mix(*ends, 1.0, 5))
        assert (eager == []) == recorded
    demo.close()


def test_what_the_work_raises_reaches_the_reader(grey):
    with refusals.refused("31 sampling steps", "1 .. 30"):
        list(grey.sample(1, None, 1.0, "ddim", 31, 0))


def test_a_distilled_model_runs_only_at_its_own_timesteps(tmp_path, monkeypatch):
    unet, diffusion = load(save(tmp_path / "teacher", "grey"))
    diffusion.sampling = few_steps(4)
    save_pipeline(unet, diffusion, tmp_path / "distilled")
    demo = Demo(tmp_path / "distilled")
    assert (demo.sampler, demo.steps) == ("ddim", 4)
    asked, forward = [], demo.unet.forward

    def spy(x, t, *labels):
        asked.append(int(t[0]))
        return forward(x, t, *labels)

    monkeypatch.setattr(demo.unet, "forward", spy)
    list(demo.complete(half(demo), "right", 1, None, 1.0, 4, 1, 0))
    list(demo.mix(End(None, None, 0), End(None, None, 1), 1.0, 4))
    assert asked == 2 * timesteps(30, 4, "trailing")[::-1].tolist()


# --- completions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", PARTS)
def test_a_completion_keeps_the_known_part(demo, missing):
    image = np.random.default_rng(0).uniform(-1, 1, (1, *demo.size, demo.channels))
    image = image.astype(np.float32)
    *_, last = demo.complete(image, missing, 3, None, 1.0, 3, 2, 0)
    known = known_mask(*demo.size, missing)[..., 0] == 1
    assert last.x.shape == (3, *image.shape[1:])
    np.testing.assert_array_equal(last.x[:, known], np.repeat(image, 3, axis=0)[:, known])
    assert np.abs(last.x[0] - last.x[1])[~known].max() > 1e-3


def test_the_class_of_a_completion_matters(demo):
    ends = [
        list(demo.complete(half(demo), "right", 1, label, guidance, 3, 1, 0))[-1].x
        for label, guidance in ((None, 1.0), (0, 1.0), (0, 4.0))
    ]
    assert all(np.abs(ends[i] - ends[j]).max() > 1e-4 for i, j in ((0, 1), (0, 2), (1, 2)))


def test_an_image_that_is_empty_outside_the_missing_part_is_refused(demo):
    for image in (None, half(demo)):
        with refusals.refused("missing part (left)", "draw something"):
            next(demo.complete(image, "left", 1, None, 1.0, 3, 1, 0))


# --- mixtures ------------------------------------------------------------------------------------


def test_a_mixture_begins_and_ends_with_the_samples_of_its_seeds(demo):
    *_, last = demo.mix(End(None, 0, 3), End(None, 2, 4), 1.0, 4)
    assert len(last.x) == COLUMNS
    for i, (label, seed) in ((0, (0, 3)), (-1, (2, 4))):
        *_, alone = demo.sample(1, label, 1.0, "ddim", 4, seed)
        np.testing.assert_allclose(last.x[i], alone.x[0], atol=1e-4)


def test_the_middle_of_a_mixture_is_sampled_from_the_noise_between(grey):
    *_, last = grey.mix(End(None, None, 3), End(None, None, 4), 1.0, 4)
    first, second = (random.normal((1, 8, 8, 1), seed, random.X_T) for seed in (3, 4))
    x_T = slerp(first, second, 0.5)
    model = conditioned(grey.unet, np.zeros(1))
    *_, step = ddim(grey.diffusion, model, x_T.shape, 4, x_T=x_T, spacing="linspace")
    np.testing.assert_allclose(last.x[4], backend.to_numpy(step.x)[0], atol=1e-4)


def test_an_image_is_mixed_by_the_noise_to_which_it_is_inverted(grey):
    *_, last = grey.mix(End(half(grey), None, 3), End(None, None, 4), 1.0, 6)
    *_, inverted = invert(grey.diffusion, grey.unet, half(grey), 6, spacing="linspace")
    sampled = ddim(grey.diffusion, grey.unet, (1, 8, 8, 1), 6, x_T=inverted.x, spacing="linspace")
    np.testing.assert_allclose(last.x[:1], backend.to_numpy(list(sampled)[-1].x), atol=1e-4)


# --- images --------------------------------------------------------------------------------------


def test_a_frame_is_html_with_both_images_and_nothing_to_load():
    x = np.linspace(-1, 1, 2 * 4 * 8 * 3, dtype=np.float32).reshape(2, 4, 8, 3)
    html = figures(Frame(x, -x, "step 1"))
    assert html.count("src='data:image/png;base64,") == html.count("src=") == 2
    assert "http" not in html
    assert "step 1" in html


@pytest.mark.parametrize("size", [(28, 28), (24, 48), (300, 200)])
@pytest.mark.parametrize("missing", PARTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_canvas_has_the_models_size_and_grey_only_in_the_missing_part(size, missing, channels):
    canvas = empty_canvas(size, missing)
    assert canvas.size == (size[1] * enlargement(size), size[0] * enlargement(size))
    image = drawn_image({"composite": canvas}, size, channels)
    assert image.shape == (1, *size, channels)
    known = known_mask(*size, missing)[..., 0] == 1
    assert (image[:, known] == -1).all()
    assert (image[:, ~known] > -1).all()


def test_a_drawing_becomes_an_image_of_the_model():
    canvas = empty_canvas((28, 28)).convert("RGBA")
    canvas.paste((255, 255, 255, 255), (100, 40, 120, 80))  # columns 10, 11; rows 4 .. 7
    canvas.paste((255, 255, 255, 0), (0, 0, 100, 20))  # transparent: black
    image = drawn_image({"composite": canvas}, (28, 28), 1)
    assert np.argwhere(image[0, ..., 0] == 1).tolist() == [
        [y, x] for y in range(4, 8) for x in (10, 11)
    ]
    assert (image == -1).sum() == 28 * 28 - 8


@pytest.mark.parametrize(
    "canvas", [None, {"composite": None}, {"composite": empty_canvas((28, 28))}]
)
def test_an_empty_canvas_is_no_image(canvas):
    assert drawn_image(canvas, (28, 28), 1) is None


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def gradio_found(monkeypatch):
    """Let the command believe that Gradio is installed; it is not reached."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


def test_without_gradio_the_command_says_how_to_install_it(command, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused(command("demo", "--model", tmp_path, *NUMPY), "Gradio", 'pip install "minddpm[demo]"')


@pytest.mark.usefixtures("gradio_found")
def test_a_port_in_use_and_a_wrong_port_are_refused(command, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = command("demo", "--model", tmp_path, "--port", port, *NUMPY)
    refused(result, "127.0.0.1", f"port {port}", "another --port")
    refused(command("demo", "--model", tmp_path, "--port", 70000, *NUMPY), "port 70000")


@pytest.mark.usefixtures("gradio_found")
def test_a_directory_without_a_model_is_refused(command, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    refused(command("demo", "--model", tmp_path, "--port", port, *NUMPY), tmp_path)
