"""Draw any number of samples from a VAE or a GAN; sample i does not depend on the batch size."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from minddpm import backend, random
from minddpm.autodiff import Tensor, no_grad
from minddpm.backend import Array
from minddpm.baselines.gan.model import Generator
from minddpm.baselines.gan.training import GENERATOR_FILE
from minddpm.baselines.model_file import load_model
from minddpm.baselines.vae.model import VAE
from minddpm.baselines.vae.training import VAE_FILE
from minddpm.data import ImageDataset, to_float


def sample_generator(generator: Generator, count: int, seed: int = 0) -> np.ndarray:
    """Return samples of a GAN's generator, float32 [count, H, W, C] on the host."""
    return _from_noise(lambda z: generator(z).data, generator.latent, count, seed)


def sample_vae(vae: VAE, count: int, seed: int = 0) -> np.ndarray:
    """Return means of p(x|z) for z ~ N(0, I), float32 [count, H, W, C] on the host."""
    return _from_noise(lambda z: vae.mean_image(vae.decode(z)), vae.latent, count, seed)


def load_baseline(directory: Path) -> VAE | Generator | None:
    """Return a run's VAE or GAN generator, with averaged weights; None if it has neither."""
    if (directory / VAE_FILE).is_file():
        return load_model(VAE, directory / VAE_FILE, "examples/train_vae.py")[0]
    if (directory / GENERATOR_FILE).is_file():
        return load_model(Generator, directory / GENERATOR_FILE, "examples/train_gan.py")[0]
    return None


def sample_baseline(model: VAE | Generator, count: int, seed: int = 0) -> np.ndarray:
    """Return samples of a VAE or generator, float32 [count, H, W, C] on the host."""
    if isinstance(model, VAE):
        return sample_vae(model, count, seed)
    return sample_generator(model, count, seed)


def _from_noise(
    function: Callable[[Tensor], Array], latent: int, count: int, seed: int, batch_size: int = 250
) -> np.ndarray:
    """Apply function to noise z [N, latent] in batches; z of sample i depends only on (seed, i)."""
    parts = []
    with no_grad(), backend.kernels.constant_weights():
        for start in range(0, count, batch_size):
            N = min(batch_size, count - start)
            z = random.normal((N, latent), seed, random.SAMPLE, first=start * latent)
            parts.append(backend.to_numpy(function(Tensor(z))))
    return np.concatenate(parts)


def reconstructions(vae: VAE, images: np.ndarray) -> np.ndarray:
    """Encode uint8 images [N, H, W, C], decode the means of q(z|x), and return the result."""
    with no_grad():
        mean, _ = vae.encode(Tensor(backend.xp.asarray(to_float(images))))
        return backend.to_numpy(vae.mean_image(vae.decode(mean)))


def bound(
    vae: VAE, data: ImageDataset, draws: int = 1, seed: int = 0, batch_size: int = 250
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the terms of -ELBO in nats, reconstruction [n] and KL [n, latent]; codes [n, latent].

    The reconstruction term is the mean over `draws` samples of z for each image; the KL is exact.
    The codes are the means of q(z|x).
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
