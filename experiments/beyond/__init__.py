"""What the paper's theory leaves open, measured."""
