"""Hydra entry points."""

import os
import sys
import time

# The time at which the command began. This comes before all other imports, since importing torch takes seconds.
STARTED = time.time()


def open_closed_streams() -> None:
    """Open standard streams that were closed (`2>&-`) on /dev/null, for this process and its children.

    Otherwise Python has None in their place. The next file that is opened, a record say, would then get the number to
    which libraries write their warnings.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: that of this stream
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


open_closed_streams()
