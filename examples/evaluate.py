"""Evaluate a trained model, or any images of digits: FID, related metrics and bits/dim.

    python examples/evaluate.py --model runs/mnist
    python examples/evaluate.py --model runs/mnist --count 10000 --sampler ddpm --steps 250
    python examples/evaluate.py --model runs/vae
    python examples/evaluate.py --samples digits.npz --json digits.json

This is `minddpm evaluate`: the code is in minddpm/commands/evaluate.py.
"""

import sys

from minddpm.commands import cli
from minddpm.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(cli.run(main, in_ranks=True))
