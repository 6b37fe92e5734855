"""Training: the loop that every training shares, and the DDPM's step.

Read loop.py (steps, a log, checkpoints), ddpm.py (Algorithm 1 in practice), options.py,
loss_scale.py (half precision), importance.py (which t to train on) and run_directory.py (how a run
survives).
"""

from minddpm.training.ddpm import Trainer
from minddpm.training.loop import TrainingDivergedError
from minddpm.training.options import TrainingOptions

__all__ = ["Trainer", "TrainingDivergedError", "TrainingOptions"]
