"""What many tests build: tiny models, images of noise, training loops, random arrays."""

import gzip
import struct

import numpy as np

import minddpm
from minddpm import Tensor, backend
from minddpm.baselines.gan.model import Discriminator, Generator
from minddpm.baselines.gan.training import GANLoop, GANOptions
from minddpm.baselines.vae.model import VAE
from minddpm.baselines.vae.training import VAELoop, VAEOptions
from minddpm.data import ImageDataset
from minddpm.pipeline import save_pipeline
from minddpm.training import Trainer, TrainingOptions
from minddpm.training.run_directory import RUN, RunDirectory

# The configuration of a UNet for images [N, 8, 8, 1]; the others change part of it.
TINY = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
WIDE = {**TINY, "block_out_channels": (32, 64)}  # complete vectors, which the CPU replays
TINIEST = {**TINY, "block_out_channels": (4, 8), "norm_num_groups": 2}
NO_ATTENTION = {
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
}
FEW = {"batch_size": 4, "log_every": 2, "checkpoint_every": 2}  # options of a short training


# --- arrays and files ----------------------------------------------------------------------------


def draw(seed, *shapes):
    """Return one float32 array of standard normal numbers for each shape."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def noise_images(count, size=8, seed=0, labels=None):
    """Return a data set of `count` uint8 images [size, size, 1] of uniform noise."""
    shape = (count, size, size, 1)
    images = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return ImageDataset(images, labels, "noise")


def host(x):
    """Return a tensor's or a backend's array as a NumPy array."""
    return backend.to_numpy(x.data if isinstance(x, Tensor) else x)


def write_digits(folder):
    """Write 30 images of noise in MNIST's file format into a folder, and return it."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        header = struct.pack(">IIII", 0x803, *pixels.shape)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = gzip.compress(struct.pack(">II", 0x801, 30) + bytes(i % 10 for i in range(30)))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(labels)
    return folder


def read_files(folder):
    """Return {path relative to folder: bytes} of every file under it, sorted by path."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder): p.read_bytes() for p in paths}


def comparison_result(fid, score):
    """Return what result.json of a comparison holds, with round numbers."""
    metrics = {"fid": fid, "classification_score": score}
    metrics = {name: {"value": x, "floor": 0.5, "ceiling": 7} for name, x in metrics.items()}
    for name in ("kid", "inception_score", "precision", "recall", "nearest_training_distance"):
        metrics[name] = {"value": 1.0}
    return {
        "parameters": 1234567, "steps": 10, "batch_size": 2, "ms_per_step": 5.0, "minutes": 1.0,
        "sampling_seconds_per_1000": 1.0, "grey_pixels": {"value": 0.1, "floor": 0.2},
        "fine_power": {"value": 0.001, "floor": 0.002},
        "spectrum": {"frequencies": [0.25, 0.5], "value": [0.02, 0.001], "floor": [0.03, 0.002]},
        "metrics": metrics,
    }  # fmt: skip


# --- models --------------------------------------------------------------------------------------


def random_unet(config=TINY, seed=0, scale=1.0, **changes):
    """Return a UNet in eval mode, all its weights drawn from N(0, scale^2).

    A new UNet ends in zeros, so that its output would not depend on its input.
    """
    unet = minddpm.UNet2D(**{**config, **changes}).eval()
    rng = np.random.default_rng(seed)
    for parameter in unet.parameters():
        values = scale * rng.standard_normal(parameter.shape).astype(np.float32)
        parameter.data = backend.xp.asarray(values)
    return unet


def shifted_unet(config=TINIEST, shift=0.02, **changes):
    """Return a UNet with the initial weights of seed 0, `shift` added to all: none is zero."""
    minddpm.manual_seed(0)
    unet = minddpm.UNet2D(**{**config, **changes})
    for parameter in unet.parameters():
        parameter.data = parameter.data + shift
    return unet


def save_tiny_pipeline(path, kind="grey", classes=0, T=30):
    """Write a model with random weights: of grey images, or of wider ones in colour."""
    size, channels = {"grey": ((8, 8), 1), "colour": ((8, 16), 3)}[kind]
    changes = {"num_class_embeds": classes + 1} if classes else {}
    unet = random_unet(
        TINIEST, scale=0.3, sample_size=size, in_channels=channels, out_channels=channels, **changes
    )
    save_pipeline(unet, minddpm.GaussianDiffusion(minddpm.schedules.cosine(T)), path)
    return path


def tiny_vae(likelihood="bernoulli", seed=0, latent=3):
    """Return a VAE of images [N, 8, 8, 1]."""
    minddpm.manual_seed(seed)
    return VAE(size=8, latent=latent, width=4, likelihood=likelihood)


def tiny_gan(seed=0, latent=3):
    """Return the generator and the discriminator of a GAN of images [N, 8, 8, 1]."""
    minddpm.manual_seed(seed)
    return Generator(size=8, width=8, latent=latent, groups=2), Discriminator(size=8, width=8)


# --- training loops ------------------------------------------------------------------------------


def make_trainer(path, unet, data, T=50, variance="fixed_small", **options):
    """Return a Trainer of a linear schedule of T timesteps; options: of TrainingOptions."""
    diffusion = minddpm.GaussianDiffusion(minddpm.schedules.linear(T), variance=variance)
    return Trainer(unet, diffusion, data, RunDirectory(path), TrainingOptions(**options))


def tiny_run(path, T=50, **options):
    """Return a Trainer on twenty images, with dropout; its run directory is created if missing.

    The variance is learned unless the loss is "simple".
    """
    minddpm.manual_seed(options.get("seed", 0))
    learned = options.get("loss", "simple") != "simple"
    unet = minddpm.UNet2D(**{**TINIEST, "dropout": 0.1, "out_channels": 1 + learned})
    variance = "learned_range" if learned else "fixed_small"
    options = {"batch_size": 4, "lr": 1e-2, "log_every": 2, "checkpoint_every": 3, **options}
    trainer = make_trainer(path, unet, noise_images(20), T, variance, **options)
    if not (path / RUN).exists():
        trainer.run.check_new(0)
        trainer.run.write_info({}, trainer.dataset.identity())
    return trainer


def make_vae_loop(path, steps=4, likelihood="bernoulli", latent=3, **options):
    """Return the training loop of a tiny VAE on twelve images."""
    chosen = VAEOptions(steps=steps, **{**FEW, **options})
    return VAELoop(
        tiny_vae(likelihood, latent=latent), noise_images(12), RunDirectory(path), chosen
    )


def make_gan_loop(path, steps=4, latent=3, **options):
    """Return the training loop of a tiny GAN on twelve images."""
    chosen = GANOptions(steps=steps, **{**FEW, **options})
    return GANLoop(*tiny_gan(latent=latent), noise_images(12), RunDirectory(path), chosen)
