"""Show what others would get of a trained model, write its model card, and upload it if asked to.

python examples/share.py --model runs/photos
python examples/share.py --model runs/photos --push-to-hub someone/photos
"""

import argparse
import sys
from pathlib import Path

from minddpm.commands import cli
from minddpm.commands.share import files_to_share, push_to_hub


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="the directory of the model")
    parser.add_argument("--push-to-hub", metavar="NAME", help="upload it to the Hugging Face hub")
    parser.add_argument("--private", action="store_true", help="only you see what is uploaded")
    return parser.parse_args()


def main() -> None:
    args = parse()
    for path in files_to_share(args.model):
        print(f"{path.stat().st_size:>12,} bytes  {path}")
    if args.push_to_hub is not None:
        print(f"uploaded to {push_to_hub(args.model, args.push_to_hub, args.private)}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
