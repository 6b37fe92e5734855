"""The models compared with the DDPM (vae/, gan/), and the classifier that the metrics use.

Each folder has a model and its training. model_loop.py trains VAE and classifier, model_file.py
defines the file format, and sampling.py draws samples from a VAE or GAN. The metrics use the
classifier by way of evaluation/metrics/judge.py.
"""
