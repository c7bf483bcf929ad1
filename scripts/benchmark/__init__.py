"""Timings of a training step: bsnn.network, vmap and the engine."""
