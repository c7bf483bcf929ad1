"""Hydra's launchers: who trains which cells of a sweep together, in which process, on which machine."""
