"""Inception v3, whose 2,048 features published FID values use; its weights are a file of the user.

The file holds the tensors under torchvision's names. There are two such sets of weights, told apart
by the number of classes: torchvision's own (1,000), and those of the FID paper, 2015-12-05 (1,008,
`pt_inception-2015-12-05-6726825d.pth` of pytorch-fid), whose network pools differently.
Source: Szegedy et al. 2015 (arXiv 1512.00567); Heusel et al. 2017 (FID).
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from minddpm import backend
from minddpm.autodiff import conv2d, no_grad
from minddpm.backend import Array
from minddpm.data import to_float
from minddpm.errors import InputError
from minddpm.kernels.shapes import Padding
from minddpm.storage.tensors import read_tensors

SIZE, FID_CLASSES, EPSILON, BATCH = 299, 1008, 1e-3, 16
STRIDED = {  # the convolutions of stride 2
    "Conv2d_1a_3x3", "Mixed_6a.branch3x3", "Mixed_6a.branch3x3dbl_3", "Mixed_7a.branch3x3_2",
    "Mixed_7a.branch7x7x3_4",
}  # fmt: skip
UNPADDED = STRIDED | {"Conv2d_2a_3x3", "Conv2d_4a_3x3"}


class Inception:
    """The network up to its last pooling; used like a judge. It has no gradients."""

    note = (
        "Published values compare with these only if they use the FID paper's weights, the same "
        "reference and the same n, usually 50,000."
    )

    def __init__(self, path: Path):
        """Read the weights. Raises InputError for a file that is not of Inception v3."""
        self._path, (self._tensors, _) = path, read_tensors(path)
        self._of_fid = len(self._tensor("fc.weight", 2)) == FID_CLASSES
        kind = "those of the FID paper" if self._of_fid else "torchvision's, not the FID paper's"
        self.name = f"Inception v3, weights {path.name} ({kind})"
        self._layers: dict[str, tuple[Array, Array]] = {}

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return the features float32 [n, 2048] of uint8 images [n, H, W, C]; C is 1 or 3."""
        results = []
        with no_grad(), backend.kernels.constant_weights():
            for start in range(0, len(images), BATCH):
                x = resized(to_float(images[start : start + BATCH]))
                x = backend.xp.asarray(np.repeat(x, 3, axis=3) if x.shape[3] == 1 else x)
                results.append(backend.to_numpy(self._run(x)))
        return np.concatenate(results)

    def _run(self, x: Array) -> Array:
        for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"):
            x = self._conv(name, x)
        x = max_pool(x, 2)
        for name in ("Conv2d_3b_1x1", "Conv2d_4a_3x3"):
            x = self._conv(name, x)
        x = max_pool(x, 2)
        for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            x = self._join(
                self._chain(name, x, "branch1x1"),
                self._chain(name, x, "branch5x5_1", "branch5x5_2"),
                self._chain(name, x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
                self._chain(name, self._average(x), "branch_pool"),
            )
        x = self._join(
            self._chain("Mixed_6a", x, "branch3x3"),
            self._chain("Mixed_6a", x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
            max_pool(x, 2),
        )
        for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            x = self._join(
                self._chain(name, x, "branch1x1"),
                self._chain(name, x, *(f"branch7x7_{i}" for i in range(1, 4))),
                self._chain(name, x, *(f"branch7x7dbl_{i}" for i in range(1, 6))),
                self._chain(name, self._average(x), "branch_pool"),
            )
        x = self._join(
            self._chain("Mixed_7a", x, "branch3x3_1", "branch3x3_2"),
            self._chain("Mixed_7a", x, *(f"branch7x7x3_{i}" for i in range(1, 5))),
            max_pool(x, 2),
        )
        for name in ("Mixed_7b", "Mixed_7c"):
            # The FID paper's network takes the maximum in its last block.
            last = self._of_fid and name == "Mixed_7c"
            pooled = max_pool(x, 1, padding=1) if last else self._average(x)
            a = self._chain(name, x, "branch3x3_1")
            b = self._chain(name, x, "branch3x3dbl_1", "branch3x3dbl_2")
            x = self._join(
                self._chain(name, x, "branch1x1"),
                *(self._chain(name, a, f"branch3x3_2{side}") for side in "ab"),
                *(self._chain(name, b, f"branch3x3dbl_3{side}") for side in "ab"),
                self._chain(name, pooled, "branch_pool"),
            )
        return x.mean(axis=(1, 2))

    def _chain(self, block: str, x: Array, *names: str) -> Array:
        for name in names:
            x = self._conv(f"{block}.{name}", x)
        return x

    @staticmethod
    def _join(*parts: Array) -> Array:
        return backend.xp.concatenate(parts, axis=3)

    def _conv(self, name: str, x: Array) -> Array:
        """Return relu(batch_norm(conv(x))); the normalisation is part of weight and bias."""
        if name not in self._layers:
            self._layers[name] = self._folded(name)
        w, b = self._layers[name]
        KH, KW = w.shape[:2]
        same: Padding = ((KH // 2, KH // 2), (KW // 2, KW // 2))
        stride = 2 if name in STRIDED else 1
        y = conv2d(x, w, b, stride, 0 if name in UNPADDED else same).data
        return backend.xp.maximum(y, 0)

    def _folded(self, name: str) -> tuple[Array, Array]:
        w = self._tensor(f"{name}.conv.weight", 4).transpose(2, 3, 1, 0)
        gamma, beta, mean, variance = (
            self._tensor(f"{name}.bn.{part}", 1).astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + EPSILON)
        w, b = (a.astype(np.float32) for a in (w * scale, beta - mean * scale))
        return backend.xp.asarray(np.ascontiguousarray(w)), backend.xp.asarray(b)

    def _tensor(self, name: str, ndim: int) -> np.ndarray:
        found = self._tensors.get(name)
        if found is None or found.ndim != ndim:
            raise InputError(
                f"{self._path} has no {name} of Inception v3: give its weights under torchvision's "
                "names, as a safetensors file."
            )
        return found

    def _average(self, x: Array) -> Array:
        """Return the means of 3 x 3 pixels; the FID paper's network leaves out the padding."""
        total = _windows(x, 1, 1, 0.0, backend.xp.add)
        if not self._of_fid:
            return total / 9
        count = _windows(backend.xp.ones_like(x[:1, :, :, :1]), 1, 1, 0.0, backend.xp.add)
        return total / count


def max_pool(x: Array, stride: int, padding: int = 0) -> Array:
    """Return the maxima of 3 x 3 pixels of x [N, H, W, C]."""
    return _windows(x, stride, padding, -np.inf, backend.xp.maximum)


def _windows(
    x: Array, stride: int, padding: int, fill: float, combine: Callable[[Array, Array], Array]
) -> Array:
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    x = backend.xp.pad(x, sides, constant_values=fill)
    H, W = x.shape[1] - 2, x.shape[2] - 2
    shifted = [x[:, i : i + H : stride, j : j + W : stride] for i in range(3) for j in range(3)]
    result = shifted[0]
    for part in shifted[1:]:
        result = combine(result, part)
    return result


def resized(x: np.ndarray) -> np.ndarray:
    """Return images [n, SIZE, SIZE, C], interpolated linearly between the centres of pixels.

    As pytorch-fid does, without smoothing first: published values depend on it.
    """
    rows, columns = (_interpolation(n) for n in x.shape[1:3])
    return np.einsum("ih,nhwc,jw->nijc", rows, x, columns, optimize=True).astype(np.float32)


def _interpolation(n: int) -> np.ndarray:
    """Return the matrix [SIZE, n] that interpolates n values linearly."""
    at = ((np.arange(SIZE) + 0.5) * n / SIZE - 0.5).clip(0, n - 1)
    low = np.minimum(at.astype(int), max(n - 2, 0))
    matrix = np.zeros((SIZE, n))
    matrix[np.arange(SIZE), low] = 1 - (at - low)
    matrix[np.arange(SIZE), np.minimum(low + 1, n - 1)] += at - low
    return matrix
