"""Covariance maps of wide layers and the bounds they give ("Gradient explosion and representation shrinkage")."""
