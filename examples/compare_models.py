"""Train a DDPM, a GAN and a VAE for the same time each and compare their samples and metrics.

    python examples/compare_models.py                    # four minutes each, three seeds: an hour
    python examples/compare_models.py --budget 30        # half an hour each
    python examples/compare_models.py --slides           # the step counts of the slides: a night

This is `minddpm compare`: the code is in minddpm/commands/compare.py.
"""

import sys

from minddpm.commands import cli
from minddpm.commands.compare import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
