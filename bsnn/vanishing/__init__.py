"""Vanishing and exploding gradients: scalar chains, Gaussian weights, quadratic functions, tricks."""
