"""Files that are whole or absent: every result is written beside its place, flushed to disk, and renamed into it.

This module also locks folders for one process and expands paths as users give them.
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from bsnn.errors import UserError

_NO_FLOCK = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK}
_NON_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def user_path(text: str | Path) -> Path:
    """Return a path as a user gives it, with ~ expanded. Raises UserError if the home directory isn't known."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{text}: expected a home directory for ~, found none; set HOME, or give the path without ~."
        ) from error


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write(stream)` on a temporary neighbour of `path`, then rename it; on failure `path` is as it was.

    The file gets the mode of any new file: the kernel applies the process's umask.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """`write_whole` for results: an OSError, such as that of a full disk, becomes a UserError."""
    try:
        write_whole(path, write)
    except Exception as error:
        cause = _os_error(error)
        if cause is None or not _is_of(path, cause):
            raise
        raise UserError(
            f"{path}: could not be written ({cause.strerror or cause}); make the folder writable, free some space, "
            "or choose another place with results_dir=FOLDER."
        ) from error


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda stream: stream.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON; inf, -inf and nan, which are results here, become the strings "inf", "-inf", "nan"."""
    write_text(path, json.dumps(_encode(value), indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote. Raises UserError if the file isn't JSON."""
    try:
        return _decode(json.loads(path.read_text()))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected JSON, found a damaged file ({error}); delete it and run again.") from error


def _encode(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


@contextmanager
def locked(folder: Path, on_wait: Callable[[], object]) -> Iterator[None]:
    """Hold `folder`, made if need be, for this process alone; call `on_wait` if another process holds it.

    The system frees the lock when its holder dies. Raises what `try_lock` raises.
    """
    lock = try_lock(folder)
    if lock is None:
        on_wait()
        lock = _acquired(folder, timeout=-1)
    try:
        yield
    finally:
        lock.release()


def try_lock(folder: Path) -> FileLock | None:
    """Take the lock of `folder`, made if need be; any thread may release it. None while somebody else holds it.

    The system frees it when its holder dies. Raises OSError for a folder that can't be written to, and UserError on a
    file system without flock: any other lock would outlive a killed holder, who would then wait for itself for ever.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return _acquired(folder, timeout=0)
    except Timeout:
        return None


def _acquired(folder: Path, timeout: float) -> FileLock:
    lock = FileLock(folder / ".lock", thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout)
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        raise UserError(
            f"{folder}: expected a file system with file locks, found one where flock fails ({error.strerror}); mount "
            "it with locks (Lustre: -o flock), or choose a folder on another one."
        ) from error
    return lock


def _os_error(error: BaseException | None) -> OSError | None:
    """Find the OSError that an exception is or came from: torch.save wraps that of a full disk in a RuntimeError."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _is_of(path: Path, error: OSError) -> bool:
    """Tell an error of writing to `path` from one of another program or file that `write` needs."""
    if error.filename is None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
    place = Path(os.fsdecode(error.filename))
    return place == path or place.name.startswith(f".{path.name}.") or place in path.parents
