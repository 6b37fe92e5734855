"""The model card of a run: README.md in its directory, as the Hugging Face hub reads it.

It is written once. Later only the text between two markers is renewed, and nothing where the user
removed the markers: all else may be edited. The card names no folder of this machine.
Format: https://huggingface.co/docs/hub/model-cards.
"""

import re
from pathlib import Path
from typing import Any

from minddpm.diffusion.scheduler_file import STEPS
from minddpm.errors import InputError
from minddpm.models.config import DEFAULTS
from minddpm.models.pretrained import model_folder, read_config
from minddpm.storage.atomic import atomic_write
from minddpm.storage.json_files import read_json
from minddpm.training.run_directory import RUN

CARD = "README.md"
NO_LICENSE = "license: unknown"
RUN_PART, METRICS_PART = "run", "metrics"
_SHOWN = {  # options of run.json in the table
    "steps": "training steps", "batch_size": "images per step", "optimizer": "optimizer",
    "lr": "learning rate", "ema_decay": "decay of the averaged weights", "timesteps": "T",
    "schedule": "noise schedule", "prediction": "the network predicts", "variance": "variance",
    "loss": "loss", "flip": "random flips", "seed": "seed", "method": "distillation",
    "teacher_steps": "teacher's steps", "guidance": "guidance, built in",
    "sampling_steps": "sampling steps",
}  # fmt: skip
_SAMPLED = ("sampler", "steps", "spacing", "guidance", "weights", "seed")


def write_card(directory: Path, metrics: str | None = None) -> bool:
    """Write README.md in the directory of a model, or renew its parts between markers.

    metrics: Markdown; None leaves that part as it is. Returns whether every part had its markers.
    Raises InputError if there is no model, or the file is no text.
    """
    parts = {RUN_PART: _run(directory)}
    if metrics is not None:
        parts[METRICS_PART] = _without_paths(metrics)
    before = read_card(directory)
    text, complete = before or _new(directory), True
    for name, content in parts.items():
        begin, end = _markers(name)
        head, found, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if found and closed:
            text = f"{head}{begin}\n\n{content.strip()}\n\n{end}{tail}"
        else:
            complete = False
    if text != before:
        with atomic_write(directory / CARD) as file:
            file.write(text.encode())
    return complete


def update_card(directory: Path, metrics: str, numbers: dict[str, dict[str, Any]]) -> None:
    """Put the metrics into the card if this is a run of a DDPM, and say so.

    metrics: as Markdown; numbers: by name, with how the samples were made.
    """
    if not (directory / RUN).is_file() or not (directory / "model_index.json").is_file():
        return
    about = next(iter(numbers.values()))
    how = [f"{key} {about[key]}" for key in _SAMPLED if key in about]
    how = f"\n\nSamples: {', '.join(how)}." if how else ""
    written = write_card(directory, metrics.strip() + how)
    print(f"{directory / CARD} {'shows them' if written else 'has no place for them: unchanged'}")


def read_card(directory: Path) -> str | None:
    """Return the text of the card, or None if there is none."""
    path = directory / CARD
    if not path.exists():
        return None
    try:
        return path.read_bytes().decode("utf-8")  # not read_text: line ends stay as they are
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a text file in UTF-8: rename it, or remove it.") from error


def _markers(part: str) -> tuple[str, str]:
    return f"<!-- minddpm: {part}; renewed between these two lines -->", f"<!-- /{part} -->"


def _new(directory: Path) -> str:
    tags = ["minddpm", "ddpm"]
    if _config(directory)["num_class_embeds"]:
        tags.append("class-conditional")
    run, metrics = _markers(RUN_PART), _markers(METRICS_PART)
    return f"""---
{NO_LICENSE}  # fill in, such as mit: https://huggingface.co/docs/hub/repositories-licenses
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags: [{", ".join(tags)}]
---

# {directory.resolve().name}

{run[0]}
{run[1]}

## Quality

{metrics[0]}

Not measured yet; `minddpm evaluate --model DIR` writes this part.

{metrics[1]}

## Licence

Fill in the first lines of this file, and here: who may use the model, and from whom the images are.
"""


def _run(directory: Path) -> str:
    """Return the part on the model, its training and its use."""
    config = _config(directory)
    size = config["sample_size"]
    H, W = (size, size) if isinstance(size, int) else size
    shape, conditional = (
        f"{H}, {W}, {config['in_channels']}",
        config["num_class_embeds"] is not None,
    )
    kind = "A class-conditional" if conditional else "An unconditional"
    text = [f"{kind} denoising diffusion model of images [{shape}], trained with minddpm."]
    if (directory / "samples.png").exists():
        text.append("![Samples, not picked by hand](samples.png)")
    info = read_json(directory / RUN) if (directory / RUN).is_file() else {}
    scheduler = _scheduler(directory)
    how = ["model", "16"] if STEPS in scheduler else ["model", "16", '"dpm_solver"', "steps=20"]
    if conditional:
        how.append("labels=numpy.zeros(16, int)")
    call = f"minddpm.generate({', '.join(how)})"
    return "\n\n".join([*text, *_training(info), _use(call, conditional, scheduler)])


def _training(info: dict[str, Any]) -> list[str]:
    if not info:
        return []
    options, data = info.get("options", {}), info.get("data", {})
    name = options.get("image_folder") or options.get("data") or "mnist"
    rows = [f"| data | {data.get('images')} images of {Path(name).name} |"]
    if names := data.get("label_names"):
        rows.append(f"| classes | {', '.join(map(str, names))} |")
    shown = {word: options.get(key) for key, word in _SHOWN.items()}
    rows += [f"| {word} | {value} |" for word, value in shown.items() if value is not None]
    return ["## Training", "\n".join(["| | |", "|---|---|", *rows])]


def _use(call: str, conditional: bool, scheduler: dict[str, Any]) -> str:
    steps = scheduler.get(STEPS)  # of a distilled model
    how = f", num_inference_steps={steps}" if steps else ""
    code = f"""pipeline = diffusers.DiffusionPipeline.from_pretrained("DIR")
images = pipeline(batch_size=4{how}).images"""
    if conditional:  # diffusers' pipelines give the model no classes
        how = f"scheduler.set_timesteps({steps})\n" if steps else ""
        code = f"""unet = diffusers.UNet2DModel.from_pretrained("DIR", subfolder="unet")
scheduler = diffusers.{scheduler["_class_name"]}.from_pretrained("DIR", subfolder="scheduler")
{how}# Pipelines know no classes: in a loop of your own, call unet(x, t, class_labels=labels)."""
    return f"""## Use

`DIR` is a copy of this directory.

```python
{"import numpy" + chr(10) if conditional else ""}import minddpm

model = minddpm.load("DIR")
samples = {call}  # -1 .. 1
```

```python
import diffusers

{code}
```"""


def _config(directory: Path) -> dict[str, Any]:
    return DEFAULTS | read_config(model_folder(directory))


def _scheduler(directory: Path) -> dict[str, Any]:
    path = directory / "scheduler" / "scheduler_config.json"
    return {"_class_name": "DDPMScheduler"} | (read_json(path) if path.is_file() else {})


def _without_paths(text: str) -> str:
    """Return the text with the folders of absolute paths left out: they are nobody's business."""
    return re.sub(r"(?<![\w.:])(/[^\s/]+)+/", "", text)
