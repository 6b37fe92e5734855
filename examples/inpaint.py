"""Fill in the missing part of test digits, several times for each digit.

    python examples/inpaint.py --model runs/mnist
    python examples/inpaint.py --model runs/mnist --missing top --steps 250 --resample 10

This is `minddpm inpaint`: the code is in minddpm/commands/inpaint.py.
"""

import sys

from minddpm.commands import cli
from minddpm.commands.inpaint import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
