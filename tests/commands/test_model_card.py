"""The model card: what it says, which parts are renewed, and what is left alone."""

import shutil

import pytest
from builders import TINY, random_unet

import minddpm
from minddpm.commands.digits_table import digits_table
from minddpm.commands.model_card import CARD, NO_LICENSE, SAMPLES_PART, update_card, write_card
from minddpm.diffusion.reverse import Sampling
from minddpm.diffusion.scheduler_file import few_steps
from minddpm.errors import InputError
from minddpm.pipeline import save_pipeline
from minddpm.training.run_directory import RunDirectory

OPTIONS = {"data": "/home/someone/my photos", "steps": 40, "flip": True, "threads": 2}
DATA = {"source": "9 images in /home/someone/my photos", "images": 9, "label_names": ["cat", "owl"]}

ABOUT = {
    "extractor": "judge",
    "reference": "train",
    "test": "test",
    "floor_is": "",
    "ceiling_is": "",
}
FID = {"fid": {"value": 7, "sampler": "ddim", "steps": 5, "seed": 3, "n": 100, **ABOUT}}
BOUND = {"bits_per_dim": {"value": 2.5, "seed": 3, "n": 100}}


@pytest.fixture
def run(tmp_path):
    """A run directory of a class-conditional model, without a card."""
    path = tmp_path / "pets"
    process = minddpm.GaussianDiffusion(minddpm.schedules.linear(50))
    save_pipeline(random_unet(TINY, num_class_embeds=3), process, path)
    RunDirectory(path).write_info(OPTIONS, DATA)
    (path / "samples.png").write_bytes(b"")
    return path


def text(run):
    return (run / CARD).read_text()


def test_a_new_card(run):
    assert write_card(run)
    front, body = text(run).removeprefix("---\n").split("\n---\n", 1)
    entries = dict(line.split(": ", 1) for line in front.splitlines())
    assert entries["library_name"] == "diffusers"
    assert entries["pipeline_tag"] == "unconditional-image-generation"
    assert entries["tags"] == "[minddpm, ddpm, class-conditional]"
    assert f"license: {entries['license']}".startswith(NO_LICENSE)
    for words in (
        "# pets\n", "[8, 8, 1]", "(samples.png)", "9 images of my photos", "cat, owl",
        "| training steps | 40 |", "Not measured yet; `minddpm evaluate", "## Licence",
    ):  # fmt: skip
        assert words in body
    assert "/home" not in body
    assert "threads" not in body
    assert "class_labels=[0, 0, 0, 0], num_inference_steps=50)" in body


def test_its_code_runs(run, monkeypatch):
    write_card(run)
    code = text(run).split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(run)
    scope = {}
    exec(code.replace("DIR", ".").replace("steps=20", "steps=2"), scope)
    assert scope["samples"].shape == (16, 8, 8, 1)


def test_only_the_parts_between_markers_are_renewed(run):
    write_card(run)
    edited = text(run).replace(NO_LICENSE, "license: mit").replace("# pets", "# My pets")
    (run / CARD).write_text(edited.replace("40 |", "forty |"))
    assert write_card(run, {SAMPLES_PART: "| FID | 7 |\n\n3 images in /home/someone/my/photos"})
    after = text(run)
    assert "license: mit" in after
    assert "# My pets" in after
    assert "| training steps | 40 |" in after
    assert "| FID | 7 |\n\n3 images in photos" in after
    assert "Not measured" not in after
    assert write_card(run)
    assert text(run) == after  # training leaves the metrics


@pytest.mark.parametrize(
    ("method", "scheduler"), [("consistency", "LCMScheduler"), ("progressive", "DDIMScheduler")]
)
@pytest.mark.parametrize("classes", [None, 3])
def test_a_distilled_model(run, method, scheduler, classes):
    process = minddpm.GaussianDiffusion(minddpm.schedules.linear(50), "v")
    process.sampling = Sampling("consistency", {}, 2) if method == "consistency" else few_steps(2)
    save_pipeline(random_unet(TINY, num_class_embeds=classes), process, run)
    options = {"method": method, "teacher_steps": None, "guidance": 1.5, "sampling_steps": 2}
    RunDirectory(run).write_info(options, DATA)
    write_card(run)
    for row in (f"distillation | {method}", "guidance, built in | 1.5", "sampling steps | 2"):
        assert f"| {row} |" in text(run)
    assert "None" not in text(run)
    ours, theirs = (part.split("```")[0] for part in text(run).split("```python\n")[1:])
    assert "dpm_solver" not in ours
    labels = "class_labels=[0, 0, 0, 0], " if classes else ""
    assert f"pipeline(batch_size=4, {labels}num_inference_steps=2)" in theirs
    diffusers = pytest.importorskip("diffusers")
    scope = {}
    exec(theirs.replace("DIR", str(run)), scope)
    assert len(scope["images"]) == 4
    assert type(scope["pipeline"].scheduler) is getattr(diffusers, scheduler)


def test_it_says_how_the_samples_were_made(run, capsys):
    update_card(run, "| FID | 7 |", FID)
    assert "| FID | 7 |\n\nSamples: sampler ddim, steps 5, seed 3.\n" in text(run)
    assert "shows them" in capsys.readouterr().out


@pytest.mark.parametrize("order", [(FID, BOUND), (BOUND, FID), (FID | BOUND,)])
def test_samples_and_likelihood_keep_each_other(run, order):
    for numbers in order:
        update_card(run, digits_table(numbers), numbers)
    assert text(run).count("| FID | 7 |") == 1
    assert text(run).count("| bits/dim, the bound | 2.5 |") == 1
    assert text(run).count("seed 3.") == 1  # the bound is not of samples
    assert "Not measured" not in text(run)
    better = {"fid": {**FID["fid"], "value": 6}}
    update_card(run, digits_table(better), better)
    assert "| FID | 6 |" in text(run)
    assert "| FID | 7 |" not in text(run)
    assert "| bits/dim, the bound | 2.5 |" in text(run)


@pytest.mark.parametrize("renew", ["train", "evaluate"])
def test_metrics_of_other_weights_go(run, renew):
    update_card(run, digits_table(FID | BOUND), FID | BOUND)
    before = text(run)
    assert write_card(run)
    assert text(run) == before
    other = random_unet(TINY, seed=5, num_class_embeds=3)
    save_pipeline(other, minddpm.load(run).diffusion, run)
    if renew == "train":
        write_card(run)
        assert "Not measured yet" in text(run)
    else:
        better = {"fid": {**FID["fid"], "value": 6}}
        update_card(run, digits_table(better), better)
        assert "| FID | 6 |" in text(run)
    assert "| FID | 7 |" not in text(run)
    assert "bits/dim" not in text(run)


@pytest.mark.parametrize("problem", ["not UTF-8", "read-only"])
def test_an_unusable_card_is_a_warning(run, capsys, monkeypatch, problem):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    if problem == "read-only":
        monkeypatch.setattr("os.replace", refuse)
    else:
        (run / CARD).write_bytes(b"\xff")
    update_card(run, "FID 7", FID)
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith("warning: ")
    assert stderr.count("\n") == 1
    assert str(run / CARD) in stderr


def test_a_card_without_markers_is_never_changed(run, capsys):
    own = "My own words.\r\n"
    (run / CARD).write_bytes(own.encode())
    assert not write_card(run, {SAMPLES_PART: "FID 7"})
    update_card(run, "FID 7", FID)
    assert (run / CARD).read_bytes() == own.encode()
    assert "has no place" in capsys.readouterr().out
    (run / CARD).write_bytes(b"\xff")
    with pytest.raises(InputError, match="not a text file"):
        write_card(run)


def test_other_directories_get_no_card(run, tmp_path):
    (run / "run.json").unlink()
    update_card(run, "FID 7", FID)
    assert not (run / CARD).exists()
    with pytest.raises(InputError, match="holds no model"):
        write_card(tmp_path)


def test_commands_write_and_renew_it(command, trained, digits, tmp_path):
    assert "30 images of mnist" in (trained / CARD).read_text()
    how = ["--count", 0, "--images", 2, "--draws", 2, "--data-dir", digits, "--backend", "numpy"]
    code, stdout, stderr = command("evaluate", "--model", trained, *how)
    assert code == 0, stderr
    assert f"{trained / CARD} shows them" in stdout
    assert "bits/dim, the bound" in (trained / CARD).read_text()
    damaged = shutil.copytree(trained, tmp_path / "damaged")
    (damaged / CARD).write_bytes(b"\xff")
    code, stdout, stderr = command("evaluate", "--model", damaged, *how)
    assert code == 0, stderr
    assert "bits/dim, the bound" in stdout
    assert "warning: " in stderr
