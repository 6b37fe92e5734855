"""The network that predicts the noise: the UNet of Ho et al. 2020, as diffusers' UNet2DModel.

Down path: residual blocks at each level, then downsampling. Middle: residual block, attention,
residual block. Up path: the mirror image; each residual block also takes a skip of the same level.
"""

from pathlib import Path
from typing import Any

import numpy as np

from minddpm import autodiff as F
from minddpm import backend
from minddpm.autodiff import Tensor
from minddpm.autodiff.graph import as_tensor
from minddpm.backend import Array
from minddpm.errors import InputError, naming
from minddpm.models.blocks import (
    DownBlock2D,
    ResnetBlock2D,
    UNetMidBlock2D,
    UpBlock2D,
    linears,
)
from minddpm.models.config import LABEL_NAMES, complete_config
from minddpm.models.pretrained import (
    CONFIG,
    WEIGHTS,
    model_folder,
    read_config,
    read_weights,
    write_pretrained,
)
from minddpm.nn import Conv2d, Embedding, GroupNorm, Linear, Module, ModuleList, Parameter
from minddpm.nn.init import sized_for
from minddpm.nn.torch_layout import load_torch_tensors


class UNet2D(Module):
    """eps = unet(x, t): x [N, H, W, in_channels] in about [-1, 1], t int [N] -> [N, H, W, out_channels].

    config: the keys of diffusers' UNet2DModel (models/config.py lists them with their defaults).
    class_labels of a class-conditional model: int [N], or their rows of class_embedding, a Tensor;
    None: no class, which is what the last of its embeddings means.
    H and W must be divisible by 2^(levels - 1): an odd size cannot be halved and doubled back.
    Raises InputError for an unknown or unsupported key or block type.
    """  # noqa: E501

    def __init__(self, **config: Any):
        self.config = complete_config(config)
        channels = self.config["block_out_channels"]
        levels = len(channels)
        temb_channels = self.config["time_embedding_dim"] or 4 * channels[0]
        inner = {**self.config, "temb_channels": temb_channels}

        self.conv_in = Conv2d(self.config["in_channels"], channels[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(channels[0], temb_channels)
        if self.config["num_class_embeds"] is not None:
            self.class_embedding = Embedding(self.config["num_class_embeds"], temb_channels)

        down = []
        for i, kind in enumerate(self.config["down_block_types"]):
            C_in = channels[max(i - 1, 0)]
            attention = kind == "AttnDownBlock2D"
            down.append(DownBlock2D(C_in, channels[i], inner, attention, downsample=i < levels - 1))
        self.down_blocks = ModuleList(down)

        up = []
        rising = channels[::-1]
        for i, kind in enumerate(self.config["up_block_types"]):
            C_skip, C_prev = rising[min(i + 1, levels - 1)], rising[max(i - 1, 0)]
            attention, upsample = kind == "AttnUpBlock2D", i < levels - 1
            up.append(UpBlock2D(C_skip, C_prev, rising[i], inner, attention, upsample))
        self.up_blocks = ModuleList(up)

        if self.config["mid_block_type"] is not None:
            self.mid_block = UNetMidBlock2D(channels[-1], inner)
        self.conv_norm_out = GroupNorm(
            self.config["norm_num_groups"], channels[0], self.config["norm_eps"]
        )
        self.conv_out = Conv2d(channels[0], self.config["out_channels"], 3, padding=1, zero=True)

    def forward(self, x: Any, t: Any, class_labels: Any = None) -> Tensor:
        x, t = self._check(x, t)
        self._check_labels(class_labels, len(x))
        if self.config["center_input_sample"]:
            x = 2 * x - 1.0

        temb = self.time_embedding(Tensor(self.timestep_features(t, x.dtype)))
        if hasattr(self, "class_embedding"):
            temb = temb + self.embed_labels(class_labels, len(x))
        temb = F.silu(temb)  # once here, instead of in every residual block
        shifts = iter(linears(temb, [resnet.time_emb_proj for resnet in self._resnets()]))

        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            x, new_skips = block(x, shifts)
            skips += new_skips
        if hasattr(self, "mid_block"):
            x = self.mid_block(x, shifts)
        for block in self.up_blocks:
            x = block(x, skips, shifts)
        return self.conv_out(self.conv_norm_out.silu(x))

    @property
    def num_classes(self) -> int:
        """The number of classes of a class-conditional model; 0 for any other.

        The additional embedding means "no class" (diffusion/sampling/guidance.py).
        """
        return (self.config["num_class_embeds"] or 1) - 1

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The names of the classes, in the order of their labels; None if they have none."""
        return self.config.get(LABEL_NAMES)

    def embed_labels(self, class_labels: Any, N: int) -> Tensor:
        """Return the embedding of N labels as a Tensor [N, C_time]; class_labels: as in forward."""
        if isinstance(class_labels, Tensor):
            return class_labels
        labels = np.full(N, self.num_classes) if class_labels is None else class_labels
        return self.class_embedding(labels)

    # Ho et al. divide exponents by half - 1, so that the last frequency is exactly 1/10000, and put
    # the sines first: freq_shift=1, flip_sin_to_cos=False. The original Transformer and diffusers'
    # default divide by half. A model works only with the convention that it was trained with.
    def timestep_features(self, t: Array, dtype: str = "float64") -> Array:
        """Compute the features of t, int [N] -> [N, C] (kernels/reference/pointwise.py)."""
        C, shift = self.config["block_out_channels"][0], self.config["freq_shift"]
        cosines_first = self.config["flip_sin_to_cos"]
        return backend.kernels.timestep_features(t, C, float(shift), cosines_first, str(dtype))

    def in_backward_order(self) -> list[Parameter]:
        """Return all parameters as a backward completes their gradients: the last layers first."""
        blocks = [*self._blocks(), self.conv_norm_out, self.conv_out]
        of_blocks = [p for block in blocks[::-1] for p in block.parameters()[::-1]]
        # One operation computes the projections of all blocks, before the first block runs.
        late = {p for resnet in self._resnets() for p in resnet.time_emb_proj.parameters()}
        early = dict.fromkeys(p for p in of_blocks if p not in late)
        return [*early, *(p for p in self.parameters() if p not in early)]

    def _blocks(self) -> list[Module]:
        middle = [self.mid_block] if hasattr(self, "mid_block") else []
        return [*self.down_blocks, *middle, *self.up_blocks]

    def _resnets(self) -> list[ResnetBlock2D]:
        """Return the residual blocks in the order in which forward runs them."""
        return [resnet for block in self._blocks() for resnet in block.resnets]

    def _check(self, x: Any, t: Any) -> tuple[Tensor, Array]:
        """Return x in the model's dtype, and t as [N]; ValueError if x or t is unsuitable."""
        x, t, C = as_tensor(x), backend.xp.asarray(t), self.config["in_channels"]
        if x.ndim != 4 or x.shape[3] != C or x.dtype.kind != "f":
            raise ValueError(f"x is {x.dtype} {x.shape}: give floating-point [N, H, W, {C}]")
        self.check_image_size(*x.shape[1:3])
        dtype = self.conv_in.weight.dtype
        if x.dtype != dtype:
            if x.requires_grad:
                raise ValueError(f"x has {x.dtype}, the model {dtype}: convert x, or the model")
            x = Tensor(x.data.astype(dtype))
        t = backend.xp.broadcast_to(t, (len(x),)) if t.ndim == 0 else t
        if t.shape != (len(x),):
            raise ValueError(f"t of shape {t.shape} for {len(x)} images: give one t for each")
        return x, t

    def _check_labels(self, class_labels: Any, N: int) -> None:
        if class_labels is not None and not hasattr(self, "class_embedding"):
            raise ValueError("the model has no num_class_embeds: leave out class_labels")
        if class_labels is not None and not isinstance(class_labels, Tensor):
            labels = class_labels if hasattr(class_labels, "dtype") else np.asarray(class_labels)
            if labels.shape != (N,) or labels.dtype.kind not in "iu":
                raise ValueError(
                    f"class_labels are {labels.dtype} {labels.shape}: give {N} integers"
                )

    def check_image_size(self, H: int, W: int) -> None:
        """Raise InputError if images of this size cannot be halved once for each level."""
        halvings = len(self.config["block_out_channels"]) - 1
        if H % 2**halvings or W % 2**halvings:
            raise InputError(
                f"images of {H} x {W} cannot be halved {halvings} times: "
                f"pad or resize them to multiples of {2**halvings}."
            )

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> "UNet2D":
        """Return the model in a run directory, or in one that diffusers' save_pretrained wrote.

        A run directory's unet/ has the averaged (EMA) weights; its training state has the raw ones.
        Raises InputError, naming the file and the remedy, for a missing or truncated file, a
        pickle, an unsupported configuration, or weights of another architecture or size.
        """
        folder = model_folder(Path(directory))
        config, tensors = read_config(folder), read_weights(folder)
        with naming(folder / CONFIG), sized_for(tensors):
            unet = cls(**config)
        load_torch_tensors(unet, tensors, folder / WEIGHTS)
        return unet.eval()

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json and diffusion_pytorch_model.safetensors, which diffusers opens."""
        write_pretrained(self, self.config, Path(directory))


class TimestepEmbedding(Module):
    """Two linear layers with a SiLU between them: [N, C] -> [N, C_time]."""

    def __init__(self, C: int, C_time: int):
        self.linear_1 = Linear(C, C_time)
        self.linear_2 = Linear(C_time, C_time)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(features)))
