"""Tensors to scores: the variational autoencoder, its training and the ensemble. Pure."""
