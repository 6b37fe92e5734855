"""The trainings beside the DDPM's: the classifier that judges, the VAE and the GAN.

Read model_loop.py (one model, one loss), then whichever one you like.
"""
