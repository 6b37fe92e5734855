"""What a UNet costs, computed from its configuration alone: parameters, arithmetic and memory."""

from typing import Any, NamedTuple

from minddpm.models.config import complete_config


class Cost(NamedTuple):
    """parameters of the UNet; of one image: multiply-adds of a forward pass, and kept values.

    kept: the outputs of all layers, which a training step keeps for the backward pass.
    """

    parameters: int
    multiply_adds: int
    kept: int

    def training_flops(self, batch_size: int) -> int:
        """Return the floating-point operations of a training step: forward, and twice that back."""
        return 3 * 2 * self.multiply_adds * batch_size

    def training_bytes(self, batch_size: int) -> int:
        """Return the memory of a training step in float32, without the program itself.

        It holds weights, gradients, Adam's two moments and the averaged weights.
        """
        return 4 * (5 * self.parameters + self.kept * batch_size)


def unet_cost(H: int, W: int, **config: Any) -> Cost:
    """Return the cost of a UNet2D with this configuration for images of H x W.

    Raises InputError for an invalid configuration.
    """
    count = _Count(complete_config(config))
    count.unet(H, W)
    return Cost(count.parameters, count.multiply_adds, count.kept)


class _Count:
    """Walks through the layers in the order of UNet2D.__init__ (unet.py)."""

    def __init__(self, config: dict[str, Any]):
        self.config = config
        self.parameters = self.multiply_adds = self.kept = 0
        self.temb = config["time_embedding_dim"] or 4 * config["block_out_channels"][0]

    def unet(self, H: int, W: int) -> None:
        config = self.config
        channels, layers = config["block_out_channels"], config["layers_per_block"]
        self.layer(config["in_channels"], channels[0], H * W, 9)
        self.layer(channels[0], self.temb, 1)
        self.layer(self.temb, self.temb, 1)
        self.parameters += (config["num_class_embeds"] or 0) * self.temb
        C, skips = channels[0], [channels[0]]
        for i, kind in enumerate(config["down_block_types"]):
            for _ in range(layers):
                C = self.resnet(C, channels[i], H * W)
                self.attention(C, H * W, kind == "AttnDownBlock2D")
                skips.append(C)
            if i < len(channels) - 1:
                H, W = H // 2, W // 2
                self.layer(C, C, H * W, 9)
                skips.append(C)
        if config["mid_block_type"] is not None:
            self.resnet(C, C, H * W)
            # diffusers' files of scale_shift have no normalisation here, as in blocks.py.
            groups = config["attn_norm_num_groups"]
            norm = groups is not None or config["resnet_time_scale_shift"] == "default"
            self.attention(C, H * W, config["add_attention"], norm)
            self.resnet(C, C, H * W)
        for i, kind in enumerate(config["up_block_types"]):
            for _ in range(layers + 1):
                C = self.resnet(C + skips.pop(), channels[-1 - i], H * W)
                self.attention(C, H * W, kind == "AttnUpBlock2D")
            if i < len(channels) - 1:
                H, W = 2 * H, 2 * W
                self.layer(C, C, H * W, 9)
        self.parameters += 2 * C
        self.layer(C, config["out_channels"], H * W, 9)

    def layer(self, C_in: int, C_out: int, pixels: int, taps: int = 1) -> None:
        """Count a convolution with this number of taps, or a linear layer."""
        self.parameters += taps * C_in * C_out + C_out
        self.multiply_adds += taps * C_in * C_out * pixels
        self.kept += C_out * pixels

    def resnet(self, C_in: int, C_out: int, pixels: int) -> int:
        scales = 2 if self.config["resnet_time_scale_shift"] == "scale_shift" else 1
        self.parameters += 2 * C_in + 2 * C_out  # of the two normalisations
        self.layer(C_in, C_out, pixels, 9)
        self.layer(self.temb, scales * C_out, 1)
        self.layer(C_out, C_out, pixels, 9)
        if C_in != C_out:
            self.layer(C_in, C_out, pixels)
        return C_out

    def attention(self, C: int, pixels: int, present: bool, norm: bool = True) -> None:
        if not present:
            return
        head = self.config["attention_head_dim"] or C
        heads = max(1, C // head)
        inner = heads * head
        self.parameters += 2 * C * norm
        for _ in range(3):
            self.layer(C, inner, pixels)
        self.multiply_adds += 2 * inner * pixels * pixels
        self.kept += (heads * pixels + inner) * pixels
        self.layer(inner, C, pixels)
