"""The model card of a run: README.md in its directory, as the Hugging Face hub reads it.

It is written once. Later only the text between two markers is renewed, and nothing where the user
removed the markers: all else may be edited. The card names no folder of this machine. What was
measured has a comment with a checksum of the weights, and goes when the model has other weights.
Format: https://huggingface.co/docs/hub/model-cards.
"""

import re
import sys
import zlib
from pathlib import Path
from typing import Any

from minddpm.commands.digits_table import digits_table
from minddpm.diffusion.scheduler_file import STEPS
from minddpm.errors import InputError
from minddpm.models.config import DEFAULTS
from minddpm.models.pretrained import model_folder, read_config
from minddpm.storage.atomic import atomic_write
from minddpm.storage.json_files import read_json
from minddpm.training.run_directory import RUN

CARD = "README.md"
NO_LICENSE = "license: unknown"
RUN_PART, SAMPLES_PART, LIKELIHOOD_PART = "run", "metrics", "likelihood"
_NOT_MEASURED = {
    SAMPLES_PART: "Not measured yet; `minddpm evaluate --model DIR` writes this part.",
    LIKELIHOOD_PART: "",
}
_SHOWN = {  # options of run.json in the table
    "steps": "training steps", "batch_size": "images per step", "optimizer": "optimizer",
    "lr": "learning rate", "ema_decay": "decay of the averaged weights", "timesteps": "T",
    "schedule": "noise schedule", "prediction": "the network predicts", "variance": "variance",
    "loss": "loss", "flip": "random flips", "seed": "seed", "method": "distillation",
    "teacher_steps": "teacher's steps", "guidance": "guidance, built in",
    "sampling_steps": "sampling steps",
}  # fmt: skip
_SAMPLED = ("sampler", "steps", "spacing", "guidance", "weights", "seed")


def write_card(directory: Path, metrics: dict[str, str] | None = None) -> bool:
    """Write README.md in the directory of a model, or renew its parts between markers.

    metrics: Markdown of SAMPLES_PART, LIKELIHOOD_PART or both. One that is missing stays as it is
    if it was measured with these weights. Returns whether all of `metrics` had their markers.
    Raises InputError if there is no model, or the file is no text.
    """
    weights = f"<!-- weights {_checksum(directory)} -->"
    measured = {
        part: f"{_without_paths(content).strip()}\n\n{weights}"
        for part, content in (metrics or {}).items()
    }
    before = read_card(directory)
    text = before or _new(directory)
    shown = all(_content(text, part) is not None for part in measured)
    for part in _NOT_MEASURED.keys() - measured.keys():
        content = _content(text, part) or ""
        if "<!-- weights " in content and weights not in content:
            measured[part] = _NOT_MEASURED[part]
    for part, content in {RUN_PART: _run(directory), **measured}.items():
        if (old := _content(text, part)) is not None:
            begin, end = _markers(part)
            text = text.replace(f"{begin}{old}{end}", f"{begin}\n\n{content.strip()}\n\n{end}", 1)
    if text != before:
        with atomic_write(directory / CARD) as file:
            file.write(text.encode(errors="replace"))  # a path may be no Unicode
    return shown


def update_card(directory: Path, shown: str, numbers: dict[str, dict[str, Any]]) -> None:
    """Put the metrics into the card if this is a run of a DDPM, and say so.

    shown: the table of all numbers; numbers: by name, with how the samples were made.
    A card that cannot be read or written is a warning: the numbers were not cheap.
    """
    if not (directory / RUN).is_file() or not (directory / "model_index.json").is_file():
        return
    samples = {name: row for name, row in numbers.items() if "extractor" in row}
    likelihood = {name: row for name, row in numbers.items() if name not in samples}
    metrics = {}
    if samples:
        about = next(iter(samples.values()))
        how = ", ".join(f"{key} {about[key]}" for key in _SAMPLED if key in about)
        table = digits_table(samples) if likelihood else shown
        metrics[SAMPLES_PART] = f"{table.strip()}\n\nSamples: {how}."
    if likelihood:  # only that of digits is measured
        metrics[LIKELIHOOD_PART] = digits_table(likelihood)
    try:
        written = write_card(directory, metrics)
    except (InputError, OSError) as error:
        print(f"warning: the model card does not show them: {error}", file=sys.stderr)
        return
    print(f"{directory / CARD} {'shows them' if written else 'has no place for them'}")


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


def _content(text: str, part: str) -> str | None:
    """Return what is between the markers of a part, or None if one of them is missing."""
    begin, end = _markers(part)
    _, _, rest = text.partition(begin)
    content, closed, _ = rest.partition(end)
    return content if closed else None


def _new(directory: Path) -> str:
    tags = ["minddpm", "ddpm"]
    if _config(directory)["num_class_embeds"]:
        tags.append("class-conditional")
    run, samples, likelihood = map(_markers, (RUN_PART, SAMPLES_PART, LIKELIHOOD_PART))
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

{samples[0]}

{_NOT_MEASURED[SAMPLES_PART]}

{samples[1]}

{likelihood[0]}
{likelihood[1]}

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
    if conditional:
        how = f"num_inference_steps={steps or scheduler['num_train_timesteps']}"
        code = f"""# The pipeline that takes classes; it draws with the scheduler of any model.
pipeline = diffusers.ConsistencyModelPipeline.from_pretrained("DIR")
images = pipeline(batch_size=4, class_labels=[0, 0, 0, 0], {how}).images"""
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


def _checksum(directory: Path) -> str:
    """Return a checksum of the weights: training may have changed them since a measurement."""
    checksum = 0
    for path in sorted(model_folder(directory).glob("diffusion_pytorch_model*")):
        checksum = zlib.crc32(path.read_bytes(), checksum)
    return f"{checksum:08x}"


def _scheduler(directory: Path) -> dict[str, Any]:
    path = directory / "scheduler" / "scheduler_config.json"
    return {"_class_name": "DDPMScheduler"} | (read_json(path) if path.is_file() else {})


def _without_paths(text: str) -> str:
    """Return the text with the folders of absolute paths left out: they are nobody's business."""
    return re.sub(r"(?<![\w.:])(/[^\s/]+)+/", "", text)
