"""The generative adversarial network: Goodfellow et al. 2014."""
