"""The cost of a UNet from its configuration alone, against the model itself and by hand."""

import pytest

import minddpm
from minddpm.commands.model_options import PRESETS
from minddpm.models.cost import unet_cost

CONFIGS = {
    **{name: config for name, config in PRESETS.items() if name not in ("paper", "cifar10")},
    "classes": {**minddpm.SMALL, "num_class_embeds": 11, "attention_head_dim": 16},
    "scale_shift": {**minddpm.SMALL, "resnet_time_scale_shift": "scale_shift"},
    "no middle": {**minddpm.SMALL, "mid_block_type": None, "time_embedding_dim": 48},
    "three blocks": {**minddpm.SMALL, "layers_per_block": 3, "add_attention": False},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_of_the_model(name):
    config = CONFIGS[name]
    size = config["sample_size"]
    parameters = sum(p.data.size for p in minddpm.UNet2D(**config).parameters())
    assert unet_cost(size, size, **config).parameters == parameters


def test_the_papers_model_has_35_7_million():
    assert unet_cost(32, 32, **minddpm.PAPER).parameters == 35_746_307


def test_arithmetic_by_hand():
    """One level of one block, no middle, attention on the way up only."""
    cost = unet_cost(
        4, 6, in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1,
        down_block_types=("DownBlock2D",), up_block_types=("AttnUpBlock2D",), mid_block_type=None,
        norm_num_groups=2, attention_head_dim=None,
    )  # fmt: skip
    pixels, temb = 24, 32
    times = 8 * temb + temb * temb + 3 * temb * 8  # of the embedding, and of each of three blocks
    down = 9 * (8 * 8 + 8 * 8)
    up = 2 * (9 * (16 * 8 + 8 * 8) + 16 * 8)  # each takes a skip, so its shortcut is 1 x 1
    attention = 2 * (4 * 8 * 8 + 2 * 8 * pixels)
    assert cost.multiply_adds == times + pixels * (9 * 8 + down + up + attention + 9 * 8)
    assert cost.training_flops(10) == 60 * cost.multiply_adds


def test_memory_grows_with_the_batch():
    cost = unet_cost(28, 28, **minddpm.SMALL)
    assert cost.training_bytes(0) == 20 * cost.parameters
    # A step of SMALL took 0.36 GB more for 128 images than for one, measured with Numba.
    assert 0.3e9 < cost.training_bytes(128) - cost.training_bytes(1) < 0.5e9
