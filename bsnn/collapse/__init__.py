"""Deep narrow ReLU networks that are constant functions ("Collapse of deep and narrow neural nets")."""
