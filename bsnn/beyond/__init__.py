"""Mathematics of what the paper's theory leaves open: finite width, Jacobians."""
