"""Train a DDPM on MNIST or other images; write the model, samples and loss curves.

    python examples/train_mnist.py
    python examples/train_mnist.py --data DIR --image-size 48x96 --model tiny --out runs/photos
    python examples/train_mnist.py --out runs/mnist --resume --steps 6000

diffusers can also open the run directory: DiffusionPipeline.from_pretrained("runs/mnist").
This is `minddpm train`: the code is in minddpm/commands/train.py.
"""

import sys

from minddpm.commands import cli
from minddpm.commands.train import main

if __name__ == "__main__":
    sys.exit(cli.run(main, in_ranks=True))
