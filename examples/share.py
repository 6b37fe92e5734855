"""List the files that sharing would upload, write the model card, and upload them if asked to.

    python examples/share.py --model runs/photos
    python examples/share.py --model runs/photos --push-to-hub someone/photos

This is `minddpm share`: the code is in minddpm/commands/share.py.
"""

import sys

from minddpm.commands import cli
from minddpm.commands.share import main

if __name__ == "__main__":
    sys.exit(cli.run(main))
