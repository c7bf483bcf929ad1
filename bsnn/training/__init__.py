"""Train cells, from configs to records: the loop, checkpoints, time limits, stacks of cells."""
