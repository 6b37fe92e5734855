"""The UNet. Read config.py (its keys), blocks.py, unet.py, pretrained.py (its files).

The other networks (classifier, VAE, GAN) are in baselines/.
"""

from minddpm.models.config import ONE_BLOCK, PAPER, SMALL
from minddpm.models.unet import UNet2D

__all__ = ["ONE_BLOCK", "PAPER", "SMALL", "UNet2D"]
