"""Compare DDPM, GAN and VAE by metrics; the lecture slides compare them by eye.

Read systems.py (one interface for all three), runs.py (train, sample and judge one system),
detail.py (spectra), table.py (Markdown), page.py (the HTML report).
"""
