"""Deep narrow ReLU networks: when they are constant ("Collapse of deep and narrow neural nets")."""
