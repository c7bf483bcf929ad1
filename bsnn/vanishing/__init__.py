"""Where gradients vanish and explode: scalar chains, Gaussian weights, quadratic functions, tricks."""
