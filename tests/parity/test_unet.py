"""The UNet against diffusers' UNet2DModel: names, files, outputs, and every gradient."""

import inspect
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from builders import TINY  # noqa: E402

from minddpm import ONE_BLOCK, PAPER, SMALL, UNet2D  # noqa: E402
from minddpm.models.config import DEFAULTS  # noqa: E402

BASE = {**TINY, "in_channels": 3, "out_channels": 3}
ONE_LEVEL = {
    "block_out_channels": (8,),
    "down_block_types": ("AttnDownBlock2D",),
    "up_block_types": ("UpBlock2D",),
}
THREE_LEVELS = {
    "block_out_channels": (16, 8, 24),
    "down_block_types": ("AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D"),
}
# PAPER with a quarter of its channels and without dropout, which is random.
NARROW_PAPER = {**PAPER, "block_out_channels": (32, 64, 64, 64), "dropout": 0.0}

CONFIGS = {
    "base": BASE,
    "SMALL": SMALL,
    "ONE_BLOCK": ONE_BLOCK,
    "narrow PAPER": NARROW_PAPER,
    "one level": {**BASE, **ONE_LEVEL},
    "three levels": {**BASE, **THREE_LEVELS},
    "scale_shift": {**BASE, "resnet_time_scale_shift": "scale_shift"},
    "sine first": {**BASE, "flip_sin_to_cos": False},
    "cosine first": {**BASE, "flip_sin_to_cos": True},
    "freq_shift 0": {**BASE, "freq_shift": 0},
    "freq_shift 1": {**BASE, "freq_shift": 1},
    "downsample_padding 0": {**BASE, "downsample_padding": 0},
    "downsample_padding 1": {**BASE, "downsample_padding": 1},
    "one head": {**BASE, "attention_head_dim": None},
    "heads of 4": {**BASE, "attention_head_dim": 4},
    "heads of 8": {**BASE, "attention_head_dim": 8},
    "class labels": {**BASE, "num_class_embeds": 10},
    "no attention in the middle": {**BASE, "add_attention": False},
    "no middle": {**BASE, "mid_block_type": None},
    "mid_block_scale_factor": {**BASE, "mid_block_scale_factor": 2**0.5},
    "attn_norm_num_groups": {**BASE, "attn_norm_num_groups": 2},
    "both of the last two, scale_shift": {
        **BASE,
        "attn_norm_num_groups": 2,
        "mid_block_scale_factor": 3,
        "resnet_time_scale_shift": "scale_shift",
    },
    "center_input_sample": {**BASE, "center_input_sample": True},
    "norm_num_groups 1": {**BASE, "norm_num_groups": 1},
    "norm_num_groups 8": {**BASE, "norm_num_groups": 8},
    "norm_eps": {**BASE, "norm_eps": 0.1},
    "layers_per_block 2": {**BASE, "layers_per_block": 2},
    "layers_per_block 3": {**BASE, "layers_per_block": 3},
    "time_embedding_dim": {**BASE, "time_embedding_dim": 12},
    "channels in and out": {**BASE, "in_channels": 1, "out_channels": 6},
    "swish": {**BASE, "act_fn": "swish"},
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def inputs(config, N=2, H=None, W=None):
    """Return x [N, H, W, C], t [N] in 0 .. 999, the output's gradient, and labels or None."""
    rng = np.random.default_rng(0)
    H, W = H or config["sample_size"], W or config["sample_size"]
    x = rng.standard_normal((N, H, W, config["in_channels"])).astype(np.float32)
    gy = rng.standard_normal((N, H, W, config["out_channels"])).astype(np.float32)
    t = np.array([999, 1, 500, 0])[:N]
    labels = np.array([3, 9, 3, 0])[:N] if config.get("num_class_embeds") else None
    return x, t, gy, labels


def check_close(ours, theirs, scale=None, name=""):
    """Check for errors up to 1e-4 of the largest entry (or of `scale`); a NaN fails."""
    assert ours.shape == theirs.shape, name
    scale = np.abs(theirs).max() if scale is None else scale
    assert np.abs(ours - theirs).max() <= 1e-4 * scale, name


def check_model(pair, x, t, gy, labels):
    """Check the output and every gradient; theirs are float64, so only our rounding is left."""
    pair.theirs.double()
    check_close(*pair.outputs(x, t, labels), name="output")
    gradients = pair.gradients(x, t, gy, labels)
    largest = max(np.abs(theirs).max() for _, theirs in gradients.values())
    for name, (ours, theirs) in gradients.items():
        # Some gradients are exactly zero, and their computed value is rounding: that of a bias
        # which the next normalisation subtracts again (one channel per group: conv1.bias and
        # time_emb_proj), and of to_k.bias, which adds the same number to every score of a softmax.
        # float64 distinguishes them from small ones; ours must vanish beside the largest gradient.
        size = np.abs(theirs).max()
        check_close(ours, theirs, scale=size if size > 1e-10 * largest else largest, name=name)


@every_config
def test_outputs_and_every_gradient(any_backend, model_pair, config):
    x, t, gy, labels = inputs(config)
    check_model(model_pair(**config), x, t, gy, labels)


@pytest.mark.parametrize(("N", "H", "W"), [(1, 8, 8), (4, 8, 8), (2, 16, 4), (1, 2, 6)])
def test_any_batch_size_and_images_that_are_not_square(any_backend, model_pair, N, H, W):
    x, t, gy, labels = inputs(BASE, N, H, W)
    check_model(model_pair(**BASE), x, t, gy, labels)


def test_which_gradients_are_zero(model_pair):
    """As check_model explains: one channel per group at the first level, two below."""
    pair = model_pair(**CONFIGS["norm_num_groups 8"])
    pair.theirs.double()
    x, t, gy, labels = inputs(BASE)
    gradients = pair.gradients(x, t, gy, labels)
    largest = max(np.abs(theirs).max() for _, theirs in gradients.values())
    zero = {name for name, (_, g) in gradients.items() if np.abs(g).max() < 1e-10 * largest}
    cancelled = {"conv1.bias", "time_emb_proj.weight", "time_emb_proj.bias"}
    first_level = ["down_blocks.0.resnets.0", "up_blocks.1.resnets.0", "up_blocks.1.resnets.1"]
    expected = {f"{block}.{name}" for block in first_level for name in cancelled}
    # conv_norm_out subtracts what the last block adds to an entire channel
    expected |= {f"{first_level[-1]}.{name}.bias" for name in ("conv2", "conv_shortcut")}
    expected |= {name for name in gradients if name.endswith("to_k.bias")}
    assert zero == expected


def test_gradients_add_up_over_two_backwards(model_pair):
    pair = model_pair(**BASE)
    x, t, gy, labels = inputs(BASE)
    once = {name: ours.copy() for name, (ours, _) in pair.gradients(x, t, gy, labels).items()}
    twice = pair.gradients(x, t, gy, labels)
    for name, (ours, _) in twice.items():
        if name != "x":  # a new x each time
            np.testing.assert_allclose(ours, 2 * once[name], rtol=1e-5, err_msg=name)


def test_dropout_is_off_in_eval(model_pair):
    pair = model_pair(**{**NARROW_PAPER, "dropout": 0.5})
    x, t, _, _ = inputs(NARROW_PAPER)
    pair.theirs.eval().double()
    pair.ours.eval()
    check_close(*pair.outputs(x, t))
    pair.ours.train()
    ours, theirs = pair.outputs(x, t)
    assert np.abs(ours - theirs).max() > 1e-2 * np.abs(theirs).max()


def test_one_t_for_all_images(model_pair):
    pair = model_pair(**BASE)
    x, _, _, _ = inputs(BASE)
    t = np.array(7)
    check_close(*pair.outputs(x, t))


# --- names, shapes, files ------------------------------------------------------------------------


@every_config
def test_names_and_shapes_in_the_same_order(config):
    theirs = diffusers.UNet2DModel(**config)
    ours = UNet2D(**config)
    expected = [(name, tuple(p.shape)) for name, p in theirs.named_parameters()]
    found = []
    for name, p in ours.named_parameters():
        axes = p.torch_axes or range(len(p.shape))
        found.append((name, tuple(p.shape[i] for i in axes)))
    assert found == expected


@every_config
def test_diffusers_opens_what_we_save(tmp_path, model_pair, config):
    pair = model_pair(**config)
    pair.ours.save_pretrained(tmp_path / "ours")
    again = diffusers.UNet2DModel.from_pretrained(tmp_path / "ours").train()
    for (name, p), q in zip(pair.theirs.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q), name
    x, t, _, labels = inputs(config)
    pair.theirs = again
    check_close(*pair.outputs(x, t, labels))


def test_we_write_the_keys_and_values_that_diffusers_writes(tmp_path):
    """Including defaults; our version is that of the oldest release with these keys."""
    UNet2D(**BASE).save_pretrained(tmp_path / "ours")
    diffusers.UNet2DModel(**BASE).save_pretrained(tmp_path / "theirs")
    ours, theirs = (
        json.loads((tmp_path / whose / "config.json").read_text()) for whose in ("ours", "theirs")
    )
    assert ours.pop("_diffusers_version") <= theirs.pop("_diffusers_version")
    assert ours == theirs


def test_our_defaults_are_those_of_diffusers():
    """A key missing in config.json then means the same in both libraries."""
    signature = inspect.signature(diffusers.UNet2DModel.__init__).parameters
    assert {name: p.default for name, p in signature.items() if name != "self"} == DEFAULTS


@pytest.mark.parametrize(
    ("config", "count"), [(SMALL, 1_623_169), (ONE_BLOCK, 1_112_801), (PAPER, 35_746_307)]
)
def test_parameter_counts(config, count):
    theirs = diffusers.UNet2DModel(**config)
    assert sum(p.numel() for p in theirs.parameters()) == count
    assert sum(p.size for p in UNet2D(**config).parameters()) == count


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("H", "W"), [(7, 8), (8, 7), (1, 2), (5, 5)])
def test_images_that_cannot_be_halved_are_refused(H, W):
    x = np.zeros((1, H, W, 3), np.float32)
    with pytest.raises(ValueError, match=r"cannot be halved 1 times: pad or resize"):
        UNet2D(**BASE)(x, np.array([0]))


def test_a_model_without_classes_takes_no_labels():
    x, t = np.zeros((1, 8, 8, 3), np.float32), np.array([0])
    with pytest.raises(ValueError, match="class_labels"):
        UNet2D(**BASE)(x, t, np.array([3]))
