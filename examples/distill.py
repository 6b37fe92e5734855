"""Turn a trained model into one that needs one sampling step or a few; write it and samples.

    python examples/distill.py --model runs/mnist --out runs/mnist-2
    python examples/distill.py --model runs/mnist --method progressive --out runs/mnist-4
    python examples/sample.py --model runs/mnist-2

This is `minddpm distill`: the code is in minddpm/commands/distill.py.
"""

import sys

from minddpm.commands import cli
from minddpm.commands.distill import main

if __name__ == "__main__":
    sys.exit(cli.run(main, in_ranks=True))
