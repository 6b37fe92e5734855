"""The variational autoencoder: Kingma and Welling 2014."""
