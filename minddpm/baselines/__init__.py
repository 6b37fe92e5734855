"""What the DDPM is compared with, model and training side by side: vae/, gan/, and classifier/.

The classifier judges samples (evaluation/metrics/judge.py). model_loop.py is the training that all
share, sampling.py draws images from a VAE or GAN.
"""
