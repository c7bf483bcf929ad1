"""GPN networks as the shrinkage and the collapse paper look at networks: mean field, and what is left of the input."""
