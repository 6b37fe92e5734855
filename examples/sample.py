"""Draw samples from a trained model: a run directory or a diffusers pipeline with a UNet2DModel.

python examples/sample.py --model runs/mnist --sampler dpm_solver --steps 20
python examples/sample.py --model runs/digits --label 7 --guidance 2
python examples/sample.py --model runs/pets --label cat

This is `minddpm sample`: the code is in minddpm/commands/sample.py.
"""

import sys

from minddpm.commands import cli
from minddpm.commands.sample import main

if __name__ == "__main__":
    sys.exit(cli.run(main, in_ranks=True))
