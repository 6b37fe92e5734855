"""DDPM, GAN and VAE side by side: the comparison that the slides make by eye, measured.

Read systems.py (the three, behind one interface), runs.py (train, sample and judge one of them),
table.py (Markdown), page.py (the report).
"""
