"""The networks. Read config.py (the keys), blocks.py, unet.py."""

from minddpm.models.config import PAPER, SMALL
from minddpm.models.unet import UNet2D

__all__ = ["PAPER", "SMALL", "UNet2D"]
