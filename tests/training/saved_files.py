"""Shared by the tests of models and schedulers on disk."""

import json
from contextlib import contextmanager

import numpy as np
from builders import read_files

from minddpm import backend
from refusals import refused

WEIGHTS = "diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"


def weights(unet):
    return {name: backend.to_numpy(p.data) for name, p in unet.named_parameters()}


def check_same_model(a, b):
    assert a.config == b.config
    a, b = weights(a), weights(b)
    assert list(a) == list(b)
    for name in a:
        assert b[name].dtype == np.float32
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def check_same_process(a, b):
    np.testing.assert_allclose(a.betas, b.betas, rtol=1e-12)
    assert (a.prediction, a.variance, a.clip_x0) == (b.prediction, b.variance, b.clip_x0)


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@contextmanager
def refused_and_untouched(directory, *words):
    """Expect InputError as refused does, and no changed file."""
    before = read_files(directory)
    with refused(*words):
        yield
    assert read_files(directory) == before
