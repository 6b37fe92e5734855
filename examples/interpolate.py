"""Interpolate between test digits in noise space: DDIM inversion, slerp, DDIM sampling.

    python examples/interpolate.py --model runs/mnist

This is `minddpm interpolate`: the code is in minddpm/commands/interpolate.py.
"""

import sys

from minddpm.commands import cli
from minddpm.commands.interpolate import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
