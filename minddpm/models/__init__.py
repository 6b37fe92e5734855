"""The networks. Read config.py (the keys), blocks.py, unet.py.

Beside the UNet: classifier.py (the judge of the metrics), vae.py and gan.py (to compare with).
"""

from minddpm.models.config import PAPER, SMALL
from minddpm.models.unet import UNet2D

__all__ = ["PAPER", "SMALL", "UNet2D"]
