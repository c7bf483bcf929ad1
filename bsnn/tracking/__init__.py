"""Weights & Biases: live runs, finished records, the published folder."""
