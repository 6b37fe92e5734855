"""The training loop that all models share, and the training step of the DDPM.

Read loop.py (steps, log, checkpoints), ddpm.py (Algorithm 1 in practice), options.py, loss_scale.py
(half precision), importance.py (how t is drawn), recipe.py (what is chosen together), buckets.py
(sums over ranks) and run_directory.py (files, resuming).
"""

from minddpm.training.ddpm import Trainer
from minddpm.training.loop import TrainingDivergedError
from minddpm.training.options import TrainingOptions

__all__ = ["Trainer", "TrainingDivergedError", "TrainingOptions"]
