"""A shared library that this machine's C++ compiler builds on first use, and a cache of such libraries.

A file of the cache is named after all that the library depends on: source, compiler and its version, flags, C library
and CPU. It holds the library and, at its end, where no loader looks, the library's SHA-256: loading a truncated library
would end the process with SIGBUS. The file gets its name when it is whole and on disk. A damaged library, or one that
can't be loaded, is built anew. If the cache can't be used (no home directory, no space, a file system without
execution), the library is built in a temporary folder.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from bsnn.errors import UserError
from bsnn.files import user_path, write_whole

log = logging.getLogger(__name__)
DIGEST_BYTES = hashlib.sha256().digest_size


def load(source: Path, flags: Sequence[str], prepare: Callable[[ctypes.CDLL], object]) -> ctypes.CDLL | None:
    """Load the library of a C++ file, from the cache or built now; None, with one warning in the log, if that fails.

    prepare: called with the library before it is used; raises an exception if it isn't what it should be.
    """
    compiler = shlex.split(os.environ.get("CXX", "")) or [shutil.which("g++") or shutil.which("clang++") or ""]
    if not compiler[0]:
        log.warning("no C++ compiler found (g++, clang++ or CXX): the engine runs in plain torch, more slowly")
        return None
    problems: list[str] = []
    try:
        cached = _cached(compiler, source, flags)
        if cached is not None and cached.exists():
            try:
                return _opened(cached, prepare)
            except Exception as error:  # a library from another machine can fail in any way
                log.info("%s is built anew: %s", cached, error)
        with tempfile.TemporaryDirectory(prefix="bsnn-") as folder:
            temporary = Path(folder) / "library.so"
            content = _built(compiler, source, flags, temporary)
            if cached is not None:
                try:
                    return _stored(cached, content, prepare)
                except Exception as error:
                    problems.append(str(error))
            write_whole(temporary, lambda stream: stream.write(content))
            try:
                library = _opened(temporary, prepare)  # it stays loaded when its file is gone
            except Exception as error:
                problems.append(str(error))
            else:
                if problems:
                    log.warning("the engine's kernels are built anew in every process: %s", problems[0])
                return library
    except subprocess.CalledProcessError as error:
        problems.append((error.stderr or str(error)).strip())
    except OSError as error:
        problems.append(str(error))
    log.warning(
        "%s can't build the engine's kernels: it runs in plain torch, more slowly (%s)",
        shlex.join(compiler), "; ".join(dict.fromkeys(problems)),
    )  # fmt: skip
    return None


def _cached(compiler: Sequence[str], source: Path, flags: Sequence[str]) -> Path | None:
    """Return the library's place in the cache, None without a home directory. Raises a failing compiler's errors."""
    version = _run([*compiler, "--version"])
    machine = (platform.machine(), *platform.libc_ver(), _cpu())
    key = hashlib.sha256("\n".join([source.read_text(), *compiler, version, *flags, *machine]).encode()).hexdigest()
    asked = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = Path(asked) if Path(asked).is_absolute() else user_path("~/.cache")
    except UserError:
        return None
    return folder / "bsnn" / "kernels" / f"{key[:16]}.so"


def _built(compiler: Sequence[str], source: Path, flags: Sequence[str], path: Path) -> bytes:
    """Compile the library as `path`; return its bytes and their digest."""
    log.info("building the engine's kernels for this CPU, once")
    _run([*compiler, *flags, "-shared", "-o", str(path), str(source)])
    content = path.read_bytes()
    return content + hashlib.sha256(content).digest()


def _stored(cached: Path, content: bytes, prepare: Callable[[ctypes.CDLL], object]) -> ctypes.CDLL:
    """Open the library under a name of its own, and rename it to the cached one once it has proved to work.

    The loader knows libraries by name: under the name of a damaged one, opened before, it would return that one again.
    """
    fresh = cached.with_name(f".{cached.stem}-{uuid.uuid4().hex[:8]}.so")
    try:
        write_whole(fresh, lambda stream: stream.write(content))
        library = _opened(fresh, prepare)
        fresh.replace(cached)
    finally:
        fresh.unlink(missing_ok=True)
    return library


def _opened(path: Path, prepare: Callable[[ctypes.CDLL], object]) -> ctypes.CDLL:
    content = path.read_bytes()
    if hashlib.sha256(content[:-DIGEST_BYTES]).digest() != content[-DIGEST_BYTES:]:
        raise OSError(f"{path} is damaged: its digest is that of another file")
    library = ctypes.CDLL(str(path))
    prepare(library)
    return library


def _run(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _cpu() -> str:
    """Describe what -march=native depends on: a cache on a shared disk serves several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(names)}))
