"""Checks of the GPU path: on a GPU, and what its compiled kernels show without one."""
