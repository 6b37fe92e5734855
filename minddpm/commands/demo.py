"""Show a model in the browser: draw samples, complete a drawing, mix two images.

    minddpm demo --model runs/mnist

Needs Gradio: pip install "minddpm[demo]". The page is served to this computer alone, until Ctrl-C.
It loads nothing from the internet.
"""

import argparse
import os
import socket
from importlib.util import find_spec

from minddpm import backend
from minddpm.commands import cli
from minddpm.commands.demo_frames import Demo
from minddpm.commands.parser import CommandParser
from minddpm.errors import InputError


def parse() -> argparse.Namespace:
    parser = CommandParser(__doc__, "the page")
    (page,) = parser.groups
    cli.add_model(page)
    page.add_argument("--port", type=cli.positive, default=7860, help="of the page (7860)")
    page.add_argument(
        "--host", default="127.0.0.1",
        help="address to serve at (127.0.0.1: this computer alone; 0.0.0.0: the whole network)",
    )  # fmt: skip
    cli.add_machine(parser)
    return parser.parse_args()


def check_address(host: str, port: int) -> None:
    """Raise InputError if the page cannot be served there."""
    if port > 65535:
        raise InputError(f"there is no port {port}: choose a --port of at most 65535.")
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise InputError(
            f"the page cannot be served at {host}, port {port} ({error}): choose another --port."
        ) from error


def main() -> None:
    args = parse()
    if find_spec("gradio") is None:
        raise InputError('the demo needs Gradio: run pip install "minddpm[demo]".')
    check_address(args.host, args.port)
    cli.start(args)
    demo = Demo(args.model)
    H, W = demo.size
    print(
        f"{args.model}: images {H} x {W} x {demo.channels}, {len(demo.classes)} classes; "
        f"backend {backend.active().name}",
        flush=True,
    )
    try:
        *_, last = demo.sample(16, None, 1.0, demo.sampler, demo.steps, 0)  # compiles the kernels
        print(f"16 samples: {last.text}", flush=True)
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported, too
        from minddpm.commands.demo_page import page

        blocks = page(demo, str(args.model))
        blocks.launch(
            server_name=args.host, server_port=args.port, share=False, quiet=True, ssr_mode=False,
            footer_links=[], prevent_thread_lock=True,
        )  # fmt: skip
        print(f"open http://{args.host}:{args.port} in a browser; Ctrl-C ends", flush=True)
        blocks.block_thread()
    finally:
        demo.close()
