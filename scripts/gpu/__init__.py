"""Checks of the GPU path: on a GPU, and without one on its compiled kernels."""
