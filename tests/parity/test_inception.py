"""Inception v3 against torchvision's, with random weights, in both of its forms."""

import sys
from types import ModuleType

import numpy as np
import pytest

torch = pytest.importorskip("torch")
# The wheel of a plain index has torchvision's compiled operations for CUDA, which fail to load
# beside the CPU build of PyTorch. The network needs none of them.
sys.modules.setdefault("torchvision._meta_registrations", ModuleType("not needed"))
pytest.importorskip("torchvision")

from torch.nn import functional  # noqa: E402
from torchvision.models import inception as torchvision_inception  # noqa: E402

from minddpm.data import to_float  # noqa: E402
from minddpm.errors import InputError  # noqa: E402
from minddpm.evaluation.metrics import inception  # noqa: E402
from minddpm.storage.tensors import write_tensors  # noqa: E402


class LastBlockOfFID(torchvision_inception.InceptionE):
    """Mixed_7c of the FID paper's network: its pooling takes the maximum."""

    def _forward(self, x):
        a, b = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = functional.max_pool2d(x, 3, stride=1, padding=1)
        return [
            self.branch1x1(x), self.branch3x3_2a(a), self.branch3x3_2b(a),
            self.branch3x3dbl_3a(b), self.branch3x3dbl_3b(b), self.branch_pool(pooled),
        ]  # fmt: skip


def random_network(classes):
    """Return torchvision's Inception v3 with random weights and statistics."""
    torch.manual_seed(0)
    network = torchvision_inception.Inception3(classes, aux_logits=False, init_weights=False)
    if classes == inception.FID_CLASSES:
        network.Mixed_7c = LastBlockOfFID(2048)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(std=0.1)
        elif name.endswith("running_var") or name.endswith("bn.weight"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("conv.weight"):
            torch.nn.init.kaiming_normal_(tensor)
    network.fc = torch.nn.Identity()
    return network.eval()


def save(network, classes, path):
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items() if tensor.ndim}
    write_tensors(path, {**tensors, "fc.weight": np.zeros((classes, 2048), np.float32)})


@pytest.mark.parametrize("classes", [1000, inception.FID_CLASSES])
@pytest.mark.parametrize("C", [1, 3])
def test_features_equal_torchvisions(classes, C, tmp_path, monkeypatch):
    monkeypatch.setattr(inception, "SIZE", 139)  # the last block has 3 x 3 pixels, of 299 8 x 8
    network = random_network(classes)
    save(network, classes, tmp_path / "inception.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 61, C), dtype=np.uint8)
    x = torch.tensor(to_float(images)).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
    x = functional.interpolate(x, (139, 139), mode="bilinear", align_corners=False)
    if classes == inception.FID_CLASSES:
        pool = functional.avg_pool2d
        monkeypatch.setattr(
            functional, "avg_pool2d", lambda *a, **k: pool(*a, **k, count_include_pad=False)
        )
    with torch.no_grad():
        expected = network(x).numpy()
    network = inception.Inception(tmp_path / "inception.safetensors")
    assert ("FID paper" in network.name) or classes == 1000
    features = network.features(images)
    assert features.shape == (3, 2048)
    np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    write_tensors(path, {"fc.weight": np.zeros((1000, 2048), np.float32)})
    network = inception.Inception(path)
    with pytest.raises(InputError, match=r"other.safetensors has no Conv2d_1a_3x3.conv.weight"):
        network.features(np.zeros((1, 8, 8, 3), np.uint8))
    write_tensors(path, {"a": np.zeros(3, np.float32)})
    with pytest.raises(InputError, match=r"no fc\.weight"):
        inception.Inception(path)
