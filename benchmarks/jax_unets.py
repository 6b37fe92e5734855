"""The same UNet in JAX: a function of a dictionary of parameters, compiled by XLA as one program.

The weights are minddpm's own arrays: XLA's convolution accepts their layouts (channels last,
[KH, KW, C_in, C_out]). XLA always uses all cores of the process; --threads does not limit it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import minddpm
from unet_problem import CLIP, DECAY, LR, Problem, T, our_unet

Array = jax.Array
Parameters = dict[str, Array]
SAME = ((1, 1), (1, 1))


def conv2d(p: Parameters, name: str, x: Array, stride: int = 1, padding: Any = SAME) -> Array:
    layouts = ("NHWC", "HWIO", "NHWC")
    w = p[f"{name}.weight"]
    y = lax.conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=layouts)
    return y + p[f"{name}.bias"]


def linear(p: Parameters, name: str, x: Array) -> Array:
    return x @ p[f"{name}.weight"] + p[f"{name}.bias"]


def group_norm(p: Parameters, name: str, x: Array, c: dict[str, Any]) -> Array:
    N, C, groups = x.shape[0], x.shape[-1], c["norm_num_groups"]
    grouped = x.reshape(N, -1, groups, C // groups)
    mean = grouped.mean(axis=(1, 3), keepdims=True)
    var = grouped.var(axis=(1, 3), keepdims=True)
    normal = (grouped - mean) * lax.rsqrt(var + c["norm_eps"])
    return normal.reshape(x.shape) * p[f"{name}.weight"] + p[f"{name}.bias"]


def resnet(p: Parameters, name: str, x: Array, temb: Array, c: dict[str, Any]) -> Array:
    h = conv2d(p, f"{name}.conv1", jax.nn.silu(group_norm(p, f"{name}.norm1", x, c)))
    h = h + linear(p, f"{name}.time_emb_proj", temb)[:, None, None, :]
    h = conv2d(p, f"{name}.conv2", jax.nn.silu(group_norm(p, f"{name}.norm2", h, c)))
    if f"{name}.conv_shortcut.weight" in p:
        x = x @ p[f"{name}.conv_shortcut.weight"][0, 0] + p[f"{name}.conv_shortcut.bias"]
    return x + h


def attention(p: Parameters, name: str, x: Array, c: dict[str, Any]) -> Array:
    N, H, W, C = x.shape
    h = group_norm(p, f"{name}.group_norm", x, c).reshape(N, H * W, C)
    heads = C // (c["attention_head_dim"] or C)
    q, k, v = (linear(p, f"{name}.to_{a}", h).reshape(N, H * W, heads, C // heads) for a in "qkv")
    scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) / np.sqrt(C // heads)
    h = jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores), v).reshape(N, H, W, C)
    return x + linear(p, f"{name}.to_out.0", h)


def block(p: Parameters, name: str, x: Array, temb: Array, c: dict[str, Any], i: int) -> Array:
    """Compute residual block i of a level, and its attention if the level has one."""
    x = resnet(p, f"{name}.resnets.{i}", x, temb, c)
    if f"{name}.attentions.{i}.to_q.weight" in p:
        x = attention(p, f"{name}.attentions.{i}", x, c)
    return x


def unet(c: dict[str, Any], p: Parameters, x: Array, features: Array) -> Array:
    """Return eps for x [N, H, W, C] and the features of its timesteps [N, C]."""
    temb = jax.nn.silu(linear(p, "time_embedding.linear_1", features))
    temb = jax.nn.silu(linear(p, "time_embedding.linear_2", temb))
    x = conv2d(p, "conv_in", x)
    skips, levels, layers = [x], len(c["block_out_channels"]), c["layers_per_block"]
    for level in range(levels):
        for i in range(layers):
            x = block(p, f"down_blocks.{level}", x, temb, c, i)
            skips.append(x)
        if level < levels - 1:
            padding = SAME if c["downsample_padding"] == 1 else ((0, 1), (0, 1))
            x = conv2d(p, f"down_blocks.{level}.downsamplers.0.conv", x, 2, padding)
            skips.append(x)
    x = resnet(p, "mid_block.resnets.0", x, temb, c)
    x = attention(p, "mid_block.attentions.0", x, c)
    x = resnet(p, "mid_block.resnets.1", x, temb, c)
    for level in range(levels):
        for i in range(layers + 1):
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = block(p, f"up_blocks.{level}", x, temb, c, i)
        if level < levels - 1:
            x = x.repeat(2, axis=1).repeat(2, axis=2)
            x = conv2d(p, f"up_blocks.{level}.upsamplers.0.conv", x)
    return conv2d(p, "conv_out", jax.nn.silu(group_norm(p, "conv_norm_out", x, c)))


def build_jax(task: str, p: Problem) -> Callable[..., Any]:
    """Return an implementation, not yet verified. The configuration must have no dropout."""
    model = our_unet(p)
    c = model.config
    parameters = {name: jnp.array(q.data) for name, q in model.named_parameters()}
    all_features = jnp.array(model.timestep_features(np.arange(T)).astype(np.float32))
    net = partial(unet, c)
    if task == "train":
        return train(net, parameters, all_features, p)
    if task == "forward":
        forward = jax.jit(net)
        x, features = jnp.array(p.x0), all_features[p.t]
        return lambda: np.asarray(forward(parameters, x, features))
    return sample(net, parameters, all_features, p)


def sample(net: Any, parameters: Parameters, all_features: Array, p: Problem) -> Callable[..., Any]:
    """Return a function for the step from T - 1: x_{t-1} = k0 pred_x0 + kx x_t + sigma z."""
    d = minddpm.GaussianDiffusion(minddpm.schedules.linear(T))
    px, po = float(d.pred_x0_coef1[-1]), float(d.pred_x0_coef2[-1])
    k0, kx = float(d.posterior_mean_coef1[-1]), float(d.posterior_mean_coef2[-1])
    sigma = float(d.posterior_variance[-1]) ** 0.5
    last = jnp.repeat(all_features[-1:], p.batch, axis=0)

    @jax.jit
    def step(parameters: Parameters, x: Array, z: Array) -> Array:
        pred_x0 = (px * x + po * net(parameters, x, last)).clip(-1, 1)
        return k0 * pred_x0 + kx * x + sigma * z

    @jax.jit
    def step_with_noise(parameters: Parameters, x: Array, key: Array) -> Array:
        return step(parameters, x, jax.random.normal(key, x.shape))

    x, key = jnp.array(p.x0), jax.random.key(0)

    def run(z: np.ndarray | None = None) -> np.ndarray:
        if z is None:
            return np.asarray(step_with_noise(parameters, x, key))
        return np.asarray(step(parameters, x, jnp.array(z)))

    return run


def train(net: Any, parameters: Parameters, all_features: Array, p: Problem) -> Callable[..., Any]:
    """Return a training step (noising to moving average) as one compiled function."""
    d = minddpm.GaussianDiffusion(minddpm.schedules.linear(T))
    tables = (d.sqrt_alphas_cumprod, d.sqrt_one_minus_alphas_cumprod)
    a, b = (jnp.array(table[p.t].astype(np.float32).reshape(-1, 1, 1, 1)) for table in tables)
    x0, noise, features = jnp.array(p.x0), jnp.array(p.noise), all_features[p.t]

    def loss_of(parameters: Parameters) -> Array:
        eps = net(parameters, a * x0 + b * noise, features)
        return ((eps - noise) ** 2).mean()

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any) -> Any:
        count, q, m, v, average = state
        loss, g = jax.value_and_grad(loss_of)(q)
        norm = jnp.sqrt(sum((x**2).sum() for x in jax.tree.leaves(g)))
        g = jax.tree.map(lambda x: x * jnp.minimum(1.0, CLIP / norm), g)
        count += 1
        m = jax.tree.map(lambda m, x: 0.9 * m + 0.1 * x, m, g)
        v = jax.tree.map(lambda v, x: 0.999 * v + 0.001 * x * x, v, g)
        rate, root = LR / (1 - 0.9**count), jnp.sqrt(1 - 0.999**count)
        q = jax.tree.map(lambda q, m, v: q - rate * m / (jnp.sqrt(v) / root + 1e-8), q, m, v)
        average = jax.tree.map(lambda s, q: s + (1 - DECAY) * (q - s), average, q)
        return (count, q, m, v, average), loss, norm

    def zeros() -> Parameters:
        return jax.tree.map(jnp.zeros_like, parameters)

    state = (jnp.float32(0), parameters, zeros(), zeros(), jax.tree.map(jnp.array, parameters))

    def run() -> tuple[float, float]:
        nonlocal state
        state, loss, norm = step(state)
        return float(loss), float(norm)

    return run
