"""The program `minddpm`: one word chooses the command, and the others are its options."""

import argparse
import importlib
import sys

from minddpm.commands import cli, completion, program
from minddpm.version import __version__

# The module of each command, imported only when it runs, and what it does.
COMMANDS = {
    "train": ("minddpm.commands.train", "train a DDPM on MNIST or your own images"),
    "sample": ("minddpm.commands.sample", "draw samples from a trained model"),
    "evaluate": ("minddpm.commands.evaluate", "measure a model or a file of images: FID, bits/dim"),
    "compare": ("minddpm.commands.compare", "train a DDPM, a GAN and a VAE, and compare them"),
    "distill": ("minddpm.commands.distill", "make a model that needs only a few sampling steps"),
    "inpaint": ("minddpm.commands.inpaint", "complete the missing part of test digits"),
    "interpolate": ("minddpm.commands.interpolate", "draw samples between two test digits"),
    "demo": ("minddpm.commands.demo", "show a model in the browser, with Gradio"),
    "share": ("minddpm.commands.share", "upload a model to the Hugging Face hub"),
    "check-gpu": ("minddpm.gpucheck.__main__", "check every CUDA kernel on this machine's GPU"),
}
IN_RANKS = ("train", "sample", "evaluate", "distill")  # those that divide their work (parallel.py)


def parse() -> str:
    """Return the name of the command."""
    lines = [f"  {name:<13}{text}" for name, (_, text) in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="minddpm",
        usage="minddpm COMMAND [options]",
        description="Denoising diffusion from arrays alone. The commands:\n\n" + "\n".join(lines),
        epilog="`minddpm COMMAND --help` lists the options of a command. To complete words in the\n"
        'shell: pip install argcomplete, then eval "$(register-python-argcomplete minddpm)"',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"minddpm {__version__}")
    if len(sys.argv) < 2:
        completion.complete(parser)
    return parser.parse_args(sys.argv[1:2]).command


def main() -> int:
    """Run the command that the first word names; return its exit code."""
    completion.enter()
    command = parse()
    program.enter(command)
    module, _ = COMMANDS[command]
    return cli.run(lambda: importlib.import_module(module).main(), command in IN_RANKS)


if __name__ == "__main__":
    sys.exit(main())
