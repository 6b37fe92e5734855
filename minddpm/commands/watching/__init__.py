"""What shows a training while it runs: index.html of its run directory, samples, TensorBoard.

page.py and page.html (the page), curves.py (its curves), sampler.py and draw.py (samples of each
checkpoint, by a process of low priority), tensorboard_log.py.
"""

from minddpm.commands.watching.page import Page
from minddpm.commands.watching.sampler import Sampler
from minddpm.commands.watching.tensorboard_log import TensorBoard
from minddpm.training.ddpm import Trainer
from minddpm.training.loop import Loop
from minddpm.training.watcher import Watcher


def watchers(loop: Loop, sample_every: int | None, tensorboard: bool) -> list[Watcher]:
    """Return what watches a training. It must be given to the loop before its first step.

    sample_every: steps between samples, at least; 0: none; None: at about twenty checkpoints. Only
    a DDPM has samples: the other models have no timesteps. tensorboard: write its files, too.
    """
    run, options = loop.run, loop.options
    chosen: list[Watcher] = [TensorBoard(run)] if tensorboard else []
    sampler = None
    if isinstance(loop, Trainer) and sample_every != 0:
        sampler = Sampler(run, options.steps, options.seed, sample_every)
    # The page is entered before the sampler, and left after it: "done" means the last samples, too.
    chosen.append(Page(run, options, loop.columns, sampler))
    return [*chosen, sampler] if sampler else chosen
