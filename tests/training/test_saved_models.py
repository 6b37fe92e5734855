"""Models and schedulers on disk: what is read back, and the sentence for each wrong file."""

import json
import pickle
from contextlib import contextmanager

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minddpm import GaussianDiffusion, UNet2D, backend
from minddpm.diffusion.scheduler_file import load_diffusion, scheduler_config
from minddpm.diffusion.schedules import BY_NAME, cosine, linear, quadratic
from minddpm.errors import InputError
from minddpm.pipeline import save_pipeline
from minddpm.storage.json_files import write_json
from refusals import refused

TINY = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
}
WEIGHTS = "diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"


def tiny_unet(seed=0, **changes):
    """A small model with other weights for every seed, none of them zero."""
    unet = UNet2D(**{**TINY, **changes}).eval()
    rng = np.random.default_rng(seed)
    for p in unet.parameters():
        p.data = rng.standard_normal(p.shape).astype(np.float32)
    return unet


def weights(unet):
    return {name: backend.to_numpy(p.data) for name, p in unet.named_parameters()}


def check_same_model(a, b):
    assert a.config == b.config
    a, b = weights(a), weights(b)
    assert list(a) == list(b)
    for name in a:
        assert b[name].dtype == np.float32
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def content(directory):
    """Every file under the directory and its bytes."""
    return {p: p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.fixture
def saved(tmp_path):
    """A directory with a good model in it."""
    tiny_unet().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# --- models, there and back ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sample_size": (8, 16), "in_channels": 3, "out_channels": 6},
        {"attention_head_dim": None, "resnet_time_scale_shift": "scale_shift"},
        {"num_class_embeds": 10, "mid_block_type": None, "act_fn": "swish"},
    ],
)
def test_a_saved_model_comes_back_bit_for_bit(any_backend, tmp_path, changes):
    unet = tiny_unet(**changes)
    unet.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["_class_name"] == "UNet2DModel"
    back = UNet2D.from_pretrained(tmp_path)
    back.config["sample_size"] = unet.config["sample_size"]  # JSON knows lists, but no tuples
    check_same_model(unet, back)


def test_a_model_that_comes_back_gives_the_same_picture(tmp_path):
    unet = tiny_unet()
    unet.save_pretrained(tmp_path)
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 1)).astype(np.float32)
    t = np.array([3, 500])
    np.testing.assert_array_equal(
        unet(x, t).numpy(), UNet2D.from_pretrained(str(tmp_path))(x, t).numpy()
    )


def test_a_model_comes_back_without_dropout(tmp_path):
    tiny_unet(dropout=0.5).train().save_pretrained(tmp_path)
    unet = UNet2D.from_pretrained(tmp_path)
    assert not any(module.training for module in unet.modules())


def test_a_pipeline_directory_is_opened_like_a_model_directory(tmp_path):
    unet = tiny_unet()
    save_pipeline(unet, GaussianDiffusion(linear(50)), tmp_path)
    check_same_model(unet, UNet2D.from_pretrained(tmp_path))
    check_same_model(unet, UNet2D.from_pretrained(tmp_path / "unet"))


def test_saving_again_replaces_the_model_and_leaves_no_other_file(saved):
    before = list(content(saved))
    other = tiny_unet(seed=1)
    other.save_pretrained(saved)
    check_same_model(other, UNet2D.from_pretrained(saved))
    assert list(content(saved)) == before


def test_weights_lie_in_pytorchs_layout(saved):
    """A convolution [KH, KW, C_in, C_out] is written as [C_out, C_in, KH, KW], a matrix turned."""
    unet, tensors = tiny_unet(), load_file(saved / WEIGHTS)
    ours = weights(unet)
    for name, array in tensors.items():
        turned = ours[name].T if array.ndim < 4 else np.moveaxis(ours[name], [3, 2], [0, 1])
        np.testing.assert_array_equal(array, turned, err_msg=name)


OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def test_weights_under_the_attentions_old_names_load(saved):
    tensors = load_file(saved / WEIGHTS)
    old = {}
    for name, array in tensors.items():
        for new, was in OLD_NAMES.items():
            name = name.replace(f".{new}.", f".{was}.")
        old[name] = array
    assert sum(name not in tensors for name in old) == 8 * 4  # four layers of attention
    save_file(old, saved / WEIGHTS)
    check_same_model(tiny_unet(), UNet2D.from_pretrained(saved))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floating_point_weights_load_as_float32(saved, dtype):
    tensors = {name: array.astype(dtype) for name, array in load_file(saved / WEIGHTS).items()}
    save_file(tensors, saved / WEIGHTS)
    loaded, original = weights(UNet2D.from_pretrained(saved)), weights(tiny_unet())
    for name, array in loaded.items():
        assert array.dtype == np.float32
        rounded = original[name].astype(dtype).astype(np.float32)
        np.testing.assert_array_equal(array, rounded, err_msg=name)


def test_keys_that_an_older_config_lacks_take_their_defaults(saved):
    config = json.loads((saved / "config.json").read_text())
    for key in (
        "_class_name",
        "_diffusers_version",
        "dropout",
        "num_train_timesteps",
        "freq_shift",
    ):
        del config[key]
    (saved / "config.json").write_text(json.dumps(config))
    check_same_model(tiny_unet(), UNet2D.from_pretrained(saved))


# --- models that cannot be opened ----------------------------------------------------------------


@contextmanager
def refused_and_untouched(directory, *words):
    """refused, and every file is as it was."""
    before = content(directory)
    with refused(*words):
        yield
    assert content(directory) == before


def test_a_missing_directory_is_refused(tmp_path):
    with refused_and_untouched(tmp_path, tmp_path / "no", "not a directory", "save_pretrained"):
        UNet2D.from_pretrained(tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_file_in_place_of_a_directory_is_refused(saved):
    with refused_and_untouched(saved, saved / WEIGHTS, "not a directory"):
        UNet2D.from_pretrained(saved / WEIGHTS)


def test_an_empty_directory_is_refused(tmp_path):
    with refused(tmp_path, "holds no model", "give a run directory"):
        UNet2D.from_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_weights_is_refused(saved):
    (saved / WEIGHTS).unlink()
    with refused_and_untouched(saved, saved, WEIGHTS, "copy the weights"):
        UNet2D.from_pretrained(saved)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "pytorch_model.bin"])
def test_a_pickle_is_refused_and_not_opened(saved, name):
    """To open a pickle is to run what it says; this one would leave a file behind."""
    (saved / WEIGHTS).unlink()

    class Harm:
        def __reduce__(self):
            return (open, (str(saved / "harm"), "w"))

    (saved / name).write_bytes(pickle.dumps(Harm()))
    with refused_and_untouched(saved, saved / name, "pickle", "safe_serialization=True"):
        UNet2D.from_pretrained(saved)
    assert not (saved / "harm").exists()


PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(100)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[:4],
        lambda raw: raw[:100],
        lambda raw: raw[:-1],
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw + b"\0",
        lambda raw: b"epsilon, x0 or v?\n" * 50,
        lambda raw: PNG,
        lambda raw: pickle.dumps({"weight": 1.0}),
        lambda raw: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    ],
    ids=["empty", "4 B", "100 B", "last byte", "half", "longer", "text", "PNG", "pickle", "LFS"],
)
def test_a_file_that_is_no_whole_safetensors_file_is_refused(saved, damage):
    (saved / WEIGHTS).write_bytes(damage((saved / WEIGHTS).read_bytes()))
    with refused_and_untouched(saved, saved / WEIGHTS, "truncated", "copy it again"):
        UNet2D.from_pretrained(saved)


@pytest.mark.parametrize(
    ("own_layers", "file_layers", "word"),
    [(2, 1, "has no tensor 'down_blocks.0"), (1, 2, "that the model has not")],
)
def test_weights_of_another_architecture_are_refused(saved, own_layers, file_layers, word):
    """Other blocks have other names: some are missing, or some are left over."""
    tiny_unet(layers_per_block=file_layers).save_pretrained(saved)
    change_json(saved / "config.json", layers_per_block=own_layers)
    with refused_and_untouched(saved, saved / WEIGHTS, word, "another architecture"):
        UNet2D.from_pretrained(saved)


def test_weights_of_another_shape_are_refused(saved):
    change_json(saved / "config.json", block_out_channels=[8, 32])
    words = (saved / WEIGHTS, "has shape", "the model expects", "another architecture")
    with refused_and_untouched(saved, *words):
        UNet2D.from_pretrained(saved)


def test_whole_numbers_as_weights_are_refused(saved):
    tensors = load_file(saved / WEIGHTS)
    tensors["conv_out.bias"] = np.zeros(1, np.int32)
    save_file(tensors, saved / WEIGHTS)
    with refused_and_untouched(saved, saved / WEIGHTS, "'conv_out.bias'", "int32"):
        UNet2D.from_pretrained(saved)


def test_a_number_type_that_numpy_has_not_is_refused(saved):
    """bfloat16, by hand: the header, and two bytes for each number."""
    header = {"conv_in.bias": {"dtype": "BF16", "shape": [8], "data_offsets": [0, 16]}}
    raw = json.dumps(header).encode()
    (saved / WEIGHTS).write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(16))
    with refused_and_untouched(saved, saved / WEIGHTS, "float32"):
        UNet2D.from_pretrained(saved)


@pytest.mark.parametrize("text", ["", "{", "sample_size: 8", "[1, 2]", "8", PNG.decode("latin-1")])
def test_a_config_that_is_no_json_object_is_refused(saved, text):
    (saved / "config.json").write_text(text, encoding="latin-1")
    with refused_and_untouched(saved, saved / "config.json", "JSON", "copy it again"):
        UNet2D.from_pretrained(saved)


@pytest.mark.parametrize("kind", ["UNet2DConditionModel", "AutoencoderKL", None, ["UNet2DModel"]])
def test_a_config_of_another_class_is_refused(saved, kind):
    change_json(saved / "config.json", _class_name=kind)
    with refused_and_untouched(saved, saved / "config.json", "UNet2DModel only"):
        UNet2D.from_pretrained(saved)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]}, ["'SkipDownBlock2D'", "AttnDo"]),
        ({"up_block_types": ["ResnetUpsampleBlock2D", "UpBlock2D"]}, ["unsupported", "AttnUp"]),
        ({"mid_block_type": "UNetMidBlock2DCrossAttn"}, ["not supported", "UNetMidBlock2D"]),
        ({"time_embedding_type": "fourier"}, ["'fourier'", "positional"]),
        ({"class_embed_type": "timestep"}, ["class_embed_type='timestep'", "None"]),
        ({"act_fn": "gelu"}, ["act_fn='gelu'", "silu"]),
        ({"downsample_padding": 2}, ["downsample_padding=2", "0 or 1"]),
        ({"cross_attention_dim": 768}, ["key 'cross_attention_dim'", "UNet2DModel"]),
        ({"block_out_channels": [8, 16, 16]}, ["block_out_channels (3)", "same length"]),
        ({"norm_num_groups": 3}, ["norm_num_groups=3", "divisor"]),
    ],
    ids=lambda value: next(iter(value)),
)
def test_a_config_that_we_cannot_run_is_refused(saved, changes, words):
    change_json(saved / "config.json", **changes)
    with refused_and_untouched(saved, saved / "config.json", *words):
        UNet2D.from_pretrained(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"norm_num_groups": 0},
        {"norm_num_groups": None},
        {"attn_norm_num_groups": 5},
        {"block_out_channels": "8, 16"},
        {"block_out_channels": None},
        {"block_out_channels": []},
        {"layers_per_block": "two"},
        {"layers_per_block": [1, 1]},
        {"down_block_types": None},
        {"in_channels": None},
        {"sample_size": "eight"},
        {"sample_size": [8, 8, 8]},
        {"attention_head_dim": [8, 8]},
        {"dropout": "none"},
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()),
)
def test_a_config_value_of_another_kind_is_refused(saved, changes):
    change_json(saved / "config.json", **changes)
    with refused_and_untouched(saved, saved / "config.json", next(iter(changes))):
        UNet2D.from_pretrained(saved)


def test_a_failed_save_leaves_the_model_that_was_there(saved, monkeypatch):
    """The disk is full half-way: neither the old file nor its name is lost."""
    before = content(saved)

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with refused(saved / WEIGHTS, "No space left", "free some space"):
        tiny_unet(seed=1).save_pretrained(saved)
    assert content(saved) == before


def test_saving_into_a_file_is_refused(saved):
    with refused_and_untouched(saved, "could not be written", "choose a folder"):
        tiny_unet().save_pretrained(saved / "config.json")


# --- schedulers ----------------------------------------------------------------------------------


def check_same_process(a, b):
    np.testing.assert_allclose(a.betas, b.betas, rtol=1e-12)
    assert (a.prediction, a.variance, a.clip_x0) == (b.prediction, b.variance, b.clip_x0)


def save_process(diffusion, directory):
    path = directory / SCHEDULER
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(scheduler_config(diffusion)))


@pytest.mark.parametrize("schedule", BY_NAME.values(), ids=BY_NAME)
@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_a_process_comes_back(tmp_path, schedule, prediction, variance):
    clip = prediction != "v"
    diffusion = GaussianDiffusion(schedule(50), prediction, variance, clip)
    save_process(diffusion, tmp_path)
    check_same_process(load_diffusion(tmp_path), diffusion)


@pytest.mark.parametrize("T", [21, 50, 1000, 4000])
def test_a_linear_schedule_is_written_by_its_ends(tmp_path, T):
    config = scheduler_config(GaussianDiffusion(linear(T)))
    assert config["trained_betas"] is None
    assert config["beta_schedule"] == "linear"
    assert config["num_train_timesteps"] == T
    assert config["beta_start"] == pytest.approx(1e-4 * 1000 / T)
    assert config["beta_end"] == pytest.approx(0.02 * 1000 / T)
    save_process(GaussianDiffusion(linear(T)), tmp_path)
    check_same_process(load_diffusion(tmp_path), GaussianDiffusion(linear(T)))


@pytest.mark.parametrize("betas", [[0.3], [0.1, 0.5, 0.2], linear(50, 1e-4, 0.01)])
def test_any_betas_come_back(tmp_path, betas):
    save_process(GaussianDiffusion(betas), tmp_path)
    check_same_process(load_diffusion(tmp_path), GaussianDiffusion(betas))


def write_scheduler(directory, **config):
    path = directory / SCHEDULER
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"_class_name": "DDPMScheduler", **config}))
    return path


def test_an_empty_config_means_the_defaults_of_ho_et_al(tmp_path):
    write_scheduler(tmp_path)
    check_same_process(load_diffusion(tmp_path), GaussianDiffusion(linear(1000)))


def test_ends_in_a_file_are_meant_as_they_are(tmp_path):
    """Nothing is rescaled here: a file of diffusers says what each beta is."""
    write_scheduler(tmp_path, num_train_timesteps=100, beta_start=1e-4, beta_end=0.02)
    expected = [1e-4 + (0.02 - 1e-4) * t / 99 for t in range(100)]
    np.testing.assert_allclose(load_diffusion(tmp_path).betas, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "betas"),
    [("squaredcos_cap_v2", cosine(100)), ("scaled_linear", quadratic(100))],
)
def test_diffusers_names_of_the_other_schedules(tmp_path, name, betas):
    ends = {"beta_start": 0.001, "beta_end": 0.2}
    write_scheduler(tmp_path, num_train_timesteps=100, beta_schedule=name, **ends)
    np.testing.assert_allclose(load_diffusion(tmp_path).betas, betas, rtol=1e-9)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_a_variance_written_by_its_logarithm_is_the_same(tmp_path, variance):
    write_scheduler(tmp_path, variance_type=f"{variance}_log")
    assert load_diffusion(tmp_path).variance == variance


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prediction_type", "flow"),
        ("variance_type", "learned"),
        ("variance_type", ["fixed_small"]),
        ("beta_schedule", "sigmoid"),
        ("thresholding", True),
        ("rescale_betas_zero_snr", True),
        ("clip_sample_range", 2.0),
    ],
)
def test_a_setting_that_we_cannot_run_is_refused(tmp_path, key, value):
    path = write_scheduler(tmp_path, **{key: value})
    with refused_and_untouched(tmp_path, path, f"{key}={value!r}", "choose"):
        load_diffusion(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"trained_betas": [0.1, 1.5]},
        {"trained_betas": []},
        {"trained_betas": ["a"]},
        {"beta_start": -0.1},
        {"beta_end": 1.5},
        {"beta_start": "small"},
        {"beta_start": -0.1, "beta_schedule": "scaled_linear"},
        {"num_train_timesteps": 0},
        {"num_train_timesteps": "many"},
        {"num_train_timesteps": 10.5},
        {"clip_sample": "yes"},
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()),
)
def test_a_setting_that_makes_no_sense_is_refused(tmp_path, config):
    path = write_scheduler(tmp_path, **config)
    with refused_and_untouched(tmp_path, path):
        load_diffusion(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_scheduler_config_that_is_no_json_object_is_refused(tmp_path, text):
    path = write_scheduler(tmp_path)
    path.write_text(text)
    with refused_and_untouched(tmp_path, path, "JSON", "copy it again"):
        load_diffusion(tmp_path)


def test_a_missing_scheduler_is_refused(saved):
    with refused_and_untouched(saved, saved / SCHEDULER, "give a directory that has it"):
        load_diffusion(saved)


def test_a_shortened_process_is_not_written(tmp_path):
    """The file has no room for the t that the model knows, so what came back would be wrong."""
    with refused("timestep"):
        scheduler_config(GaussianDiffusion(linear(50)).respaced(np.array([0, 10, 20])))


# --- pipelines -----------------------------------------------------------------------------------


def test_a_pipeline_is_both(tmp_path):
    unet, diffusion = tiny_unet(), GaussianDiffusion(cosine(20), "v", "fixed_large", False)
    save_pipeline(unet, diffusion, tmp_path)
    check_same_model(unet, UNet2D.from_pretrained(tmp_path))
    check_same_process(load_diffusion(tmp_path), diffusion)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "DDPMPipeline"
    assert {key: value[1] for key, value in index.items() if key[0] != "_"} == {
        "scheduler": "DDPMScheduler",
        "unet": "UNet2DModel",
    }
    names = {str(p.relative_to(tmp_path)) for p in content(tmp_path)}
    assert names == {"model_index.json", SCHEDULER, "unet/config.json", f"unet/{WEIGHTS}"}


def test_a_pipeline_with_everything_in_one_folder_opens(saved):
    """The layout of google/ddpm-cifar10-32: both configurations beside the weights."""
    d = GaussianDiffusion(linear(60), variance="fixed_large")
    write_json(saved / "scheduler_config.json", scheduler_config(d))
    np.testing.assert_allclose(load_diffusion(saved).betas, d.betas, rtol=1e-12)
    UNet2D.from_pretrained(saved)


def test_another_kind_of_process_is_refused(saved):
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    write_json(saved / "scheduler_config.json", config)
    with pytest.raises(InputError, match="FlowMatch"):
        load_diffusion(saved)
