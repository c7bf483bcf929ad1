"""Training on a GPU without a network: one folder to carry to the machine, and one command to run there."""
