"""GPN networks in the view of the shrinkage and the collapse paper: mean field, and what is left of the input."""
