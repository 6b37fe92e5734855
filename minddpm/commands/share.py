"""List the files that sharing would upload, write the model card, and upload them if asked to.

    minddpm share --model runs/photos
    minddpm share --model runs/photos --push-to-hub someone/photos

Uploading needs huggingface_hub: pip install "minddpm[hub]".
"""

import argparse
from pathlib import Path

from minddpm.commands import cli
from minddpm.commands.model_card import CARD, NO_LICENSE, read_card, write_card
from minddpm.commands.parser import CommandParser
from minddpm.errors import InputError

# What others need. Not run.json and training_state, which are for --resume here, and not
# forward.png, which shows training images.
SHARED = (CARD, "model_index.json", "unet/*", "scheduler/*", "samples.png", "denoising.gif")


def parse() -> argparse.Namespace:
    parser = CommandParser(__doc__, "sharing")
    (sharing,) = parser.groups
    cli.add_model(sharing)
    sharing.add_argument("--push-to-hub", metavar="NAME", help="upload it to the Hugging Face hub")
    sharing.add_argument("--private", action="store_true", help="only you see what is uploaded")
    return parser.parse_args()


def files_to_share(directory: Path) -> list[Path]:
    """Return the files that are uploaded, sorted; the card is written, or renewed.

    Raises InputError if there is no model, or the card is no text.
    """
    write_card(directory)  # renewed, since an interrupted training leaves older metrics in it
    found = {path for pattern in SHARED for path in directory.glob(pattern) if path.is_file()}
    return sorted(found)


def push_to_hub(directory: Path, name: str, private: bool = False) -> str:
    """Upload a run to the hub as `name`, such as someone/photos, and return its address.

    The endpoint and the token are those of huggingface_hub (HF_ENDPOINT, `hf auth login`).
    Raises InputError for a card without a licence, without huggingface_hub, and if the hub refuses.
    """
    files = files_to_share(directory)
    if f"\n{NO_LICENSE}" in (read_card(directory) or ""):
        raise InputError(
            f"{directory / CARD} still has '{NO_LICENSE}': fill in the licence, then share it."
        )
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise InputError(
            f'huggingface_hub is missing ({error}): pip install "minddpm[hub]".'
        ) from error
    api, patterns = HfApi(), [path.relative_to(directory).as_posix() for path in files]
    try:
        place = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=place.repo_id, folder_path=directory, allow_patterns=patterns,
            commit_message="Upload a model of minddpm",
        )  # fmt: skip
    except Exception as error:  # without a network: those of the HTTP library, a new one in 2.x
        reason = " ".join(str(error).split())
        raise InputError(
            f"the hub did not take {name} ({reason}): look at the name, the network and "
            "`hf auth login`."
        ) from error
    return str(place)


def main() -> None:
    args = parse()
    for path in files_to_share(args.model):
        print(f"{path.stat().st_size:>12,} bytes  {path}")
    if args.push_to_hub is not None:
        print(f"uploaded to {push_to_hub(args.model, args.push_to_hub, args.private)}")
