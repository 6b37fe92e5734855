"""Pictures from a VAE or a GAN: any number, the same ones whatever the batch size."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from minddpm import backend, random
from minddpm.autodiff import Tensor, no_grad
from minddpm.backend import Array
from minddpm.baselines.gan import training as gan_training
from minddpm.baselines.gan.model import Generator
from minddpm.baselines.model_file import load_model
from minddpm.baselines.vae import training as vae_training
from minddpm.baselines.vae.model import VAE
from minddpm.data import ImageDataset, to_float


def from_generator(generator: Generator, count: int, seed: int = 0) -> np.ndarray:
    """Pictures of a GAN's generator, float32 [count, H, W, C] on the host."""
    return _from_noise(lambda z: generator(z).data, generator.latent, count, seed)


def from_vae(vae: VAE, count: int, seed: int = 0) -> np.ndarray:
    """Pictures of a VAE, the means of p(x|z) for z ~ N(0, I): float32 [count, H, W, C]."""
    return _from_noise(lambda z: vae.pictures(vae.decode(z)), vae.latent, count, seed)


def load_maker(directory: Path) -> VAE | Generator | None:
    """The VAE or the GAN's generator (averaged weights) of a run; None where neither is."""
    if (directory / vae_training.FILE).is_file():
        return load_model(VAE, directory / vae_training.FILE, "examples/train_vae.py")[0]
    if (directory / gan_training.FILE).is_file():
        return load_model(Generator, directory / gan_training.FILE, "examples/train_gan.py")[0]
    return None


def make(maker: VAE | Generator, count: int, seed: int = 0) -> np.ndarray:
    """from_vae or from_generator."""
    return (from_vae if isinstance(maker, VAE) else from_generator)(maker, count, seed)


def _from_noise(
    function: Callable[[Tensor], Array], latent: int, count: int, seed: int, batch_size: int = 250
) -> np.ndarray:
    """function of z [N, latent], batch after batch; z of picture i depends on (seed, i) alone."""
    parts = []
    with no_grad(), backend.kernels.constant_weights():
        for start in range(0, count, batch_size):
            N = min(batch_size, count - start)
            z = random.normal((N, latent), seed, random.SAMPLE, first=start * latent)
            parts.append(backend.to_numpy(function(Tensor(z))))
    return np.concatenate(parts)


def reconstructions(vae: VAE, images: np.ndarray) -> np.ndarray:
    """What becomes of uint8 images [N, H, W, C] by way of the mean of their code."""
    with no_grad():
        mean, _ = vae.encode(Tensor(backend.xp.asarray(to_float(images))))
        return backend.to_numpy(vae.pictures(vae.decode(mean)))


def bound(
    vae: VAE, data: ImageDataset, draws: int = 1, seed: int = 0, batch_size: int = 250
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two terms of -ELBO on a data set in nats, and the codes: [n], [n, latent], [n, latent].

    The reconstruction term is the mean over `draws` of z for each picture, the KL is exact.
    """
    rows: list[tuple[np.ndarray, ...]] = []
    with no_grad(), backend.kernels.constant_weights():
        for start in range(0, len(data), batch_size):
            x = backend.xp.asarray(to_float(data.images[start : start + batch_size]))
            terms = []
            for draw in range(draws):
                shape, first = (len(x), vae.latent), start * vae.latent
                noise = random.normal(shape, seed, random.BOUND, draw, first)
                _, reconstruction, kl = vae.elbo(x, noise)
                terms.append(backend.to_numpy(reconstruction.data))
            codes = vae.encode(Tensor(x))[0]
            rows.append((np.mean(terms, axis=0), *(backend.to_numpy(a.data) for a in (kl, codes))))
    reconstruction, kl, codes = (np.concatenate(column) for column in zip(*rows, strict=True))
    return reconstruction.astype(np.float64), kl.astype(np.float64), codes
