"""Tell when this process began and open its standard streams; imported before everything that takes time."""

import os
import sys
import time

STARTED = time.time()
"""Start of the command as time.time(), read before torch, which takes seconds."""


def open_closed_streams() -> None:
    """Open standard streams that were closed (`2>&-`) on /dev/null, for this process and its children.

    Else Python has None in their place, and the next file that is opened, a record say, gets the number that libraries
    write their warnings to.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


open_closed_streams()
