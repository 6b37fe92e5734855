"""The targets that are files: every file that minddpm reads, by the function that reads it."""

import contextlib
import io
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
from attempt import Reached
from builders import comparison_result
from commands import NUMPY
from damage import (
    anywhere,
    gzipped,
    idx_header,
    json_file,
    npz_members,
    png_chunks,
    safetensors_header,
)
from PIL import Image
from processes import Target
from sources import Damaged, Drawn, Source, changed_json, csv_files
from tiny_commands import call

import minddpm
from minddpm.baselines.sampling import load_baseline
from minddpm.commands.run_figures import draw_loss
from minddpm.data import load_folder, load_mnist
from minddpm.data.download import DownloadError, download_all
from minddpm.data.image_archive import read_images
from minddpm.errors import InputError
from minddpm.evaluation.comparison import runs
from minddpm.evaluation.comparison.systems import DDPM
from minddpm.evaluation.comparison.table import summary
from minddpm.evaluation.metrics.judge import load_judge
from minddpm.storage.tensors import read_tensors
from minddpm.training.run_directory import LOSS_COLUMNS, LossLog, RunDirectory, read_loss

IMAGES, LABELS = "digits/t10k-images-idx3-ubyte", "digits/t10k-labels-idx1-ubyte.gz"
STATE, LOSS, RUN = "run/training_state.safetensors", "run/loss.csv", "run/run.json"
WEIGHTS = "run/unet/diffusion_pytorch_model.safetensors"
CONFIG, SCHEDULER = "run/unet/config.json", "run/scheduler/scheduler_config.json"
ON_RUN = ["--backend", "numpy", "--data-dir", "digits", "--out", "run", "--resume"]
ON_COMPARISON = ["--backend", "numpy", "--data-dir", "digits", "--out", "comparison"]


def file_target(
    name: str, share: int, file: str, read: Callable[[Path], object], *sources: Source
) -> Target:
    """Return a target that writes its input as `file`, and reads it."""

    def use(data: bytes, folder: Path) -> None:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        read(path)

    return Target(name, share, sources, use)


def file_targets(base: Path, modules: dict[str, ModuleType]) -> list[Target]:
    """Return all targets that are files; base: the folder of write_fixtures."""
    return [
        *_data(base),
        *_weights(base),
        *_configs(base),
        *_runs(base, modules),
        *_results(base, modules),
    ]


# --- data ----------------------------------------------------------------------------------------


def _data(base: Path) -> list[Target]:
    images, labels = (base / IMAGES).read_bytes(), (base / LABELS).read_bytes()
    damages = [anywhere, idx_header, gzipped(anywhere), gzipped(idx_header)]
    archives = Damaged(_archives(), anywhere, npz_members)
    pngs, others = Damaged(_pngs(), png_chunks), Damaged([*_pngs(), *_other_images()], anywhere)

    def mnist(path: Path) -> None:
        load_mnist(path.parent, "test")

    return [
        file_target("IDX images", 10, IMAGES, mnist, Damaged([images], *damages)),
        file_target("IDX labels", 5, LABELS, mnist, Damaged([labels], anywhere)),
        file_target("download", 2, "download", _download, Damaged([labels], anywhere)),
        file_target(".npz", 12, "a.npz", read_images, archives),
        file_target("images", 12, "images/a", lambda p: load_folder(p.parent, 8, 3), pngs, others),
    ]


def _archives() -> list[bytes]:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 8, 8), dtype=np.uint8)
    contents = [
        {"images": pixels, "labels": np.arange(4)},
        {"arr_0": rng.random((4, 8, 8, 3), np.float32)},
    ]
    archives = []
    for save in (np.savez, np.savez_compressed):
        for content in contents:
            file = io.BytesIO()
            save(file, **content)
            archives.append(file.getvalue())
    return archives


def _pngs() -> list[bytes]:
    modes = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
    return [_encoded(Image.linear_gradient("L").resize((9, 8)).convert(m), "PNG") for m in modes]


def _other_images() -> list[bytes]:
    image = Image.linear_gradient("L").resize((9, 8)).convert("RGB")
    formats = ("JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "TGA", "ICO", "JPEG2000", "PCX")
    compressed = [_encoded(image, "TIFF", compression=name) for name in ("tiff_lzw", "jpeg")]
    return [*(_encoded(image, name) for name in formats), *compressed]


def _encoded(image: Image.Image, name: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def _download(path: Path) -> None:
    """Download a file from a mirror that sends these bytes."""
    response = mock.MagicMock(length=None, read=path.open("rb").read)
    response.__enter__.return_value = response
    with mock.patch.object(urllib.request, "urlopen", return_value=response):
        try:
            download_all(["t10k-labels-idx1-ubyte"], path.parent / "cache")
        except DownloadError as error:  # load_mnist() puts the clause into its sentence
            raise InputError(f"{error}.") from error


# --- models --------------------------------------------------------------------------------------


def _weights(base: Path) -> list[Target]:
    def damaged(file: str) -> Damaged:
        return Damaged([(base / file).read_bytes()], anywhere, safetensors_header)

    state: dict[str, dict[str, np.ndarray]] = {}
    for name, array in read_tensors(base / STATE)[0].items():
        state.setdefault(name.split("/")[0], {})[name.split("/", 1)[1]] = array

    def read_state(path: Path) -> None:
        RunDirectory(path.parent).load_state(state)

    vae, gan, judge = "vae/vae.safetensors", "gan/generator.safetensors", "judge.safetensors"
    return [
        file_target("training_state.safetensors", 10, STATE, read_state, damaged(STATE)),
        file_target("UNet weights", 8, WEIGHTS, lambda path: minddpm.load("run"), damaged(WEIGHTS)),
        file_target("vae.safetensors", 2, vae, lambda p: load_baseline(p.parent), damaged(vae)),
        file_target(
            "generator.safetensors", 2, gan, lambda p: load_baseline(p.parent), damaged(gan)
        ),
        file_target("classifier.safetensors", 2, judge, load_judge, damaged(judge)),
    ]


def _configs(base: Path) -> list[Target]:
    def load(path: Path) -> None:
        minddpm.load("run")

    return [
        file_target("config.json", 8, CONFIG, load, *_json((base / CONFIG).read_bytes(), ())),
        file_target(
            "scheduler_config.json", 8, SCHEDULER, load, *_json((base / SCHEDULER).read_bytes(), ())
        ),
    ]


def _json(raw: bytes, *paths: tuple[str, ...]) -> list[Source]:
    """Return sources of a JSON file with changed values in the objects at these paths."""
    drawn = [Drawn(changed_json(raw, *path)) for path in paths]
    return [*drawn, Damaged([raw], anywhere, json_file)]


# --- runs and comparisons ------------------------------------------------------------------------


def _runs(base: Path, modules: dict[str, ModuleType]) -> list[Target]:
    log = Drawn(csv_files(LOSS_COLUMNS)), Damaged([(base / LOSS).read_bytes()], anywhere)
    options = _json((base / RUN).read_bytes(), ("options",), ("data",))

    def read_log(path: Path) -> None:
        read_loss(path)
        LossLog(path, 3)

    def resume(path: Path) -> None:
        call(modules["train_mnist"], ON_RUN)

    return [
        file_target("run.json", 4, RUN, resume, *options),
        file_target("loss.csv", 8, LOSS, read_log, *log),
        file_target("loss.csv, drawn", 1, LOSS, lambda path: draw_loss(RunDirectory("run")), *log),
    ]


def _results(base: Path, modules: dict[str, ModuleType]) -> list[Target]:
    """Return the files of a comparison, which is continued from them."""
    plan = runs.Plan(Path("comparison"), (0,), minutes=1.0)
    result = comparison_result(2.0, 0.5)
    training = {name: result[name] for name in ("steps", "batch_size", "ms_per_step", "minutes")}
    training["parameters"] = 1

    def read_training(path: Path) -> None:
        runs.train(plan, DDPM(), 0, None)

    def read_result(path: Path) -> None:
        summary({"DDPM": [runs.judge(plan, DDPM(), 0, {}, None)]})

    def resume(path: Path) -> None:
        call(modules["compare_models"], ON_COMPARISON)

    with contextlib.suppress(Reached):
        digits, out = str(base / "digits"), str(base / "comparison")
        call(modules["compare_models"], [*NUMPY, "--data-dir", digits, "--out", out])
    settings = (base / "comparison" / "plan.json").read_bytes()
    folder = "comparison/ddpm-0"
    return [
        file_target("plan.json", 2, "comparison/plan.json", resume, *_json(settings, ())),
        file_target(
            "training.json", 1, f"{folder}/training.json", read_training,
            *_json(_dump(training), ()),
        ),
        file_target(
            "result.json", 2, f"{folder}/result.json", read_result,
            *_json(_dump(result), (), ("metrics",)),
        ),
    ]  # fmt: skip


def _dump(content: dict) -> bytes:
    return json.dumps(content).encode()
