"""Covariance maps of wide layers and what they bound ("Gradient explosion and representation shrinkage")."""
