"""From a cell's config to its record: the loop, checkpoints, time limits, stacks of cells."""
