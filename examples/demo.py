"""Show a model in the browser: draw samples, complete a drawing, mix two images.

    pip install -e ".[demo]"
    python examples/demo.py --model runs/mnist
    python examples/demo.py --model runs/mnist-2 --port 8000   # a distilled model, another port

This is `minddpm demo`: the code is in minddpm/commands/demo.py.
"""

import sys

from minddpm.commands import cli
from minddpm.commands.demo import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
