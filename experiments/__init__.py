"""Hydra entry points."""

import time

# When the command began: imported before everything else, torch takes seconds.
STARTED = time.time()
