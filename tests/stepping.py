"""Trainers whose steps replay or not, for comparison: what tests of replayed training share."""

import numpy as np
from builders import make_trainer, noise_images, random_unet

import minddpm
from minddpm import backend, parallel

LABELLED = noise_images(20, labels=np.arange(20) % 3)
CASES = {  # changes of the model, of the diffusion, options
    "plain": ({}, {}, {}),
    "dropout": ({"dropout": 0.2}, {}, {}),
    "classes": ({"num_class_embeds": 4}, {}, {"class_conditional": True}),
    "dropout and classes": (
        {"dropout": 0.2, "num_class_embeds": 4}, {}, {"class_conditional": True},
    ),
    "v": ({}, {"prediction": "v"}, {"draw_t": "log-snr"}),
    "x0": ({}, {"prediction": "x0"}, {}),
    "weight decay": ({}, {}, {"weight_decay": 0.1}),
    "a small norm": ({}, {}, {"clip_norm": 1e-3}),
    "muon": ({}, {}, {"optimizer": "muon", "weight_decay": 0.1}),
}  # fmt: skip
IN_PART = {  # the host computes the loss, or its weights: the model's halves replay
    "hybrid": ({"out_channels": 2}, {"variance": "learned_range"}, {"loss": "hybrid"}),
    "importance": (
        {"out_channels": 2}, {"variance": "learned_range"},
        {"loss": "vlb", "importance_sampling": True},
    ),
}  # fmt: skip


def trainer(config, path, case="plain", T=50, batch=4, **more):
    """Return a Trainer of a UNet with this config, changed as the case says; more: options."""
    changes, process, options = (CASES | IN_PART)[case]
    unet = random_unet(config, scale=0.1, **changes).train()
    options = {"batch_size": batch, "lr": 1e-3, **options, **more}
    made = make_trainer(path, unet, LABELLED, T=T, **options)
    made.diffusion = minddpm.GaussianDiffusion(minddpm.schedules.linear(T), **process)
    return made


def eager(made):
    """Let a trainer call Python between the kernels."""

    def call(function, step, *inputs):
        return function(step, *inputs)

    made.replay, call.then = call, call
    made.model = made.unet
    return made


class Doubled(parallel.Alone):
    """The first of two ranks, the other of which has the same images.

    A sum is there when it has been waited for, and not before. events: "begin" with a copy of what
    is summed, and "end".
    """

    size = 2

    def __init__(self):
        self.events = []

    def begin_sum(self, x):
        self.events.append(("begin", x.copy()))

        def end():
            x[...] *= 2
            self.events.append(("end", None))

        return end


def one_bucket(made):
    """Let a trainer in ranks add up all gradients together, after the backward."""
    made.buckets._ranges = [slice(None)]
    made.buckets._groups = [made.optimizer.flat.parameters]
    return made


def step(made):
    """Take a step and return all that it changed."""
    record = made.train_step()
    arrays = record.losses, record.t, record.squared_norm, *made.changed
    return [backend.to_numpy(a).tobytes() for a in arrays]


def stages(made):
    """Return what each shape's steps do now, such as "replay"."""
    return [r._run.__name__.strip("_") for r in made.replay._records.of_key.values()]


def check_steps(one, other, count):
    """Check that the next steps of two trainers change everything in the same way."""
    for _ in range(count):
        assert step(one) == step(other)


def check_stages(made, case):
    """Check that a trainer's steps replay now, or, where only a part can, its model's halves."""
    assert stages(made) == ["eager" if case in IN_PART else "replay"]
    if case in IN_PART:
        (halves,) = made.model._records.of_key.values()
        assert halves._call._run.__name__ == "_replay"
