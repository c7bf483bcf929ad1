"""The study of what the paper's theory leaves open."""
