"""Progress of a sweep: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from tqdm import tqdm

log = logging.getLogger(__name__)
LINE_SECONDS = 60.0


class Meter:
    """A counter of networks' steps, over all cells and from any thread.

    Args:
        cells: how many there are.
        ended: counts those that have ended.
        bar: draw a bar instead of logging lines.
    """

    def __init__(self, cells: int, ended: Callable[[], int], bar: bool) -> None:
        self._cells, self._ended = cells, ended
        self._steps, self._expected = 0, 0
        self._started: float | None = None
        self._next_line = 0.0
        self._lock = threading.Lock()
        self._bar = tqdm(total=0, unit="step", unit_scale=True, disable=not bar, leave=False, smoothing=0.05)

    def expect(self, steps: int) -> None:
        """Add `steps` to those expected; a negative number takes back steps that will not come."""
        with self._lock:
            if self._started is None:
                self._started = time.monotonic()
                self._next_line = self._started + LINE_SECONDS
            self._expected += steps
            self._bar.total = self._expected
            self._bar.refresh()

    def add(self, steps: int) -> None:
        with self._lock:
            self._steps += steps
            self._bar.update(steps)

    def report(self) -> None:
        """Update the bar, or log a line when one is due. One thread calls it now and then."""
        if not self._bar.disable:
            with self._lock:
                self._bar.set_postfix_str(f"{self._ended()} of {self._cells} cells")
        elif self._cells > 1 and self._started is not None and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            log.info(self.line())

    def line(self) -> str:
        """Format the progress: 12 of 48 cells, 31 % of the steps, about 4 min left."""
        with self._lock:
            # Steps repeated after a crash count twice: the share is kept to at most all of them.
            share = min(self._steps / self._expected, 1.0) if self._expected else 1.0
            parts = [f"{self._ended()} of {self._cells} cells", f"{100 * share:.0f} % of the steps"]
            if 0 < share < 1 and self._started is not None:
                parts.append(f"about {duration((time.monotonic() - self._started) * (1 - share) / share)} left")
            return ", ".join(parts)

    def close(self) -> None:
        self._bar.close()


def duration(seconds: float) -> str:
    """Format a duration: 45 s, 4 min, 2 h 05 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
