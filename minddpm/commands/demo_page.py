"""The page of the demo: three tabs of Gradio components around demo_frames.py."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gradio as gr

from minddpm.commands.demo_frames import COLUMNS, Demo, End, Frame
from minddpm.commands.demo_images import drawn_image, empty_canvas, enlargement, figures
from minddpm.commands.known_part import PARTS
from minddpm.errors import InputError
from minddpm.generate import SAMPLERS


def page(demo: Demo, title: str) -> gr.Blocks:
    """Return the page; launch() serves it."""
    with gr.Blocks(title=title, analytics_enabled=False) as blocks:
        gr.Markdown(f"# minddpm\n`{title}`")
        with gr.Tab("Sample"):
            _sample(demo, blocks)
        with gr.Tab("Complete"):
            _complete(demo)
        with gr.Tab("Mix"):
            _mix(demo)
    return blocks


def _sample(demo: Demo, blocks: gr.Blocks) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            label, guidance = _class(demo, "all classes in turn"), _guidance(demo)
            sampler = gr.Dropdown(list(SAMPLERS), value=demo.sampler, label="Sampler")
            steps, seed = _steps(demo), _seed()
            count = gr.Slider(1, 64, 16, step=1, label="Samples")
            start = gr.Button("Sample", variant="primary")
            stop = gr.Button("Stop")
        with gr.Column(scale=2, min_width=280):
            result = gr.HTML()

    def frames(count, label, guidance, sampler, steps, seed) -> Iterator[Frame]:
        return demo.sample(count, _label(label), guidance, sampler, steps, seed)

    inputs = [count, label, guidance, sampler, steps, seed]
    _connect([start.click, blocks.load], stop, frames, inputs, result, "sample")


def _complete(demo: Demo) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            missing = gr.Radio(
                PARTS, value="bottom", label="Missing part",
                info="The grey part, which the model draws. Another choice empties the image.",
            )  # fmt: skip
            canvas = _canvas(demo, "Image", "bottom")
            label, guidance = _class(demo, "unknown"), _guidance(demo)
            steps, seed = _steps(demo), _seed()
            resample = gr.Slider(1, 20, 5, step=1, label="Runs of each step")
            start = gr.Button("Complete", variant="primary")
            stop = gr.Button("Stop")
        with gr.Column(scale=2, min_width=280):
            result = gr.HTML()

    def frames(canvas, missing, label, guidance, steps, resample, seed) -> Iterator[Frame]:
        image = drawn_image(canvas, demo.size, demo.channels)
        return demo.complete(image, missing, 4, _label(label), guidance, steps, resample, seed)

    # A new canvas: Gradio's page does not come back from an event that reads and writes the canvas.
    missing.change(
        partial(empty_canvas, demo.size), missing, canvas,
        show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    inputs = [canvas, missing, label, guidance, steps, resample, seed]
    _connect([start.click], stop, frames, inputs, result, "complete")


def _mix(demo: Demo) -> None:
    ends = []
    gr.Markdown(
        "Draw or upload two images. One that is left black is the first sample of its seed."
    )
    with gr.Row():
        for name, number in (("First", 0), ("Second", 1)):
            with gr.Column(min_width=280):
                canvas = _canvas(demo, f"{name} image")
                ends += [canvas, _class(demo, "unknown"), _seed(number)]
    with gr.Row():
        guidance, steps = _guidance(demo), _steps(demo)
    with gr.Row():
        start = gr.Button("Mix", variant="primary")
        stop = gr.Button("Stop")
    result = gr.HTML()

    def frames(image, label, seed, image_2, label_2, seed_2, guidance, steps) -> Iterator[Frame]:
        first = End(drawn_image(image, demo.size, demo.channels), _label(label), seed)
        second = End(drawn_image(image_2, demo.size, demo.channels), _label(label_2), seed_2)
        return demo.mix(first, second, guidance, steps)

    _connect([start.click], stop, frames, [*ends, guidance, steps], result, "mix", COLUMNS)


def _connect(
    starts: list[Any], stop: gr.Button, frames: Callable[..., Iterator[Frame]], inputs: list[Any],
    result: gr.HTML, name: str, columns: int | None = None,
) -> None:  # fmt: skip
    """Let events start the frames, shown one after another, and a button stop them."""

    def show(*values: Any) -> Iterator[str]:
        try:
            for frame in frames(*values):
                yield figures(frame, columns)
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from error

    running = gr.on(
        starts, show, inputs, result, api_name=name, show_progress="hidden", concurrency_limit=4
    )
    stop.click(None, cancels=[running], api_visibility="private")


def _class(demo: Demo, none: str) -> gr.Dropdown:
    """Return a choice of the class, whose value is its label + 1; 0 is `none`."""
    choices = [none, *demo.classes]
    return gr.Dropdown(choices, value=none, type="index", label="Class", visible=bool(demo.classes))


def _label(index: int) -> int | None:
    return index - 1 if index else None


def _guidance(demo: Demo) -> gr.Slider:
    return gr.Slider(0, 8, 1, step=0.5, label="Guidance (1: none)", visible=bool(demo.classes))


def _steps(demo: Demo) -> gr.Slider:
    return gr.Slider(1, demo.diffusion.T, demo.steps, step=1, label="Steps")


def _seed(value: int = 0) -> gr.Number:
    return gr.Number(value, precision=0, minimum=0, label="Seed")


def _canvas(demo: Demo, label: str, missing: str | None = None) -> gr.Sketchpad:
    scale = enlargement(demo.size)
    colours = ["#ffffff", "#808080", "#000000"]
    if demo.channels == 3:
        colours += ["#cc3333", "#33aa33", "#3366cc", "#ddcc33"]
    return gr.Sketchpad(
        empty_canvas(demo.size, missing),
        label=label,
        type="pil",
        format="png",
        sources=("upload", "clipboard"),
        canvas_size=(demo.size[1] * scale, demo.size[0] * scale),
        fixed_canvas=True,
        layers=False,
        transforms=(),
        brush=gr.Brush(
            default_size=max(1, round(1.2 * scale)),  # a radius, as of MNIST's strokes
            colors=colours,
            color_mode="fixed" if demo.channels == 1 else "defaults",
        ),
    )
