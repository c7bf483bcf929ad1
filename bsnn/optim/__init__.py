"""Optimisers on matrices: SGD that keeps them orthogonal, and updates that are orthogonalised."""
