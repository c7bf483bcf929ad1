"""Hydra's launchers. They decide which cells of a sweep are trained together, in which process, on which machine."""
