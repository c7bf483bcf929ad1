"""A GPU on a machine without a network: one folder to carry there, and the one command that it runs there."""
