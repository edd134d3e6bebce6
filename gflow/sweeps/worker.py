"""What a worker does: it unpacks the problem once, and computes one chunk at a time."""

import contextlib
import ctypes
import os
import pickle
import signal
import threading
import time
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.monitoring

from . import batch, exact, settings
from .chunks import Chunk
from .problem import Problem
from .same import agree, mark

_PROBLEMS: OrderedDict[str, Problem] = OrderedDict()
# Of sweeps of this process: a thread takes the problem itself. Classes unpacked where they were packed lose the
# names that their functions look up.
HERE: weakref.WeakValueDictionary[str, Problem] = weakref.WeakValueDictionary()
_LOCK = threading.Lock()
_COMPILED = threading.Event()


class OtherModels(RuntimeError):
    """What goes to a worker by name is something else there."""


class Failure(NamedTuple):
    """An error of the computation itself, which another worker would meet as well."""

    error: Exception


def compute(problem: Problem, chunk: Chunk) -> tuple[dict[str, Any], dict[str, str]]:
    """The variables of a chunk, and what was said at points that have no model."""
    return (batch if problem.digits is None else exact).run_chunk(problem, chunk)


def compute_packed(key: str, packed: bytes, chunk: Chunk, attempt: int) -> Any:
    """`compute` for an executor. The problem stays unpacked, so that its programs stay compiled. `attempt` makes the
    call a new one: Dask would answer an equal one with the error of the last."""
    del attempt
    try:
        with _LOCK:
            problem = HERE.get(key) or _kept(key, packed)
        with settings.applied(problem.settings):
            result = compute(problem, chunk)
        _give_back()
        return result
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return Failure(error)


def _kept(key: str, packed: bytes) -> Problem:
    if key not in _PROBLEMS:
        _PROBLEMS[key] = _unpacked(packed)
        while len(_PROBLEMS) > 4:
            _PROBLEMS.popitem(last=False)
    return _PROBLEMS[key]


def _unpacked(packed: bytes) -> Problem:
    problem, expected = pickle.loads(packed)
    with settings.applied(problem.settings):
        if not agree(mark(problem), expected):
            raise OtherModels(
                "workers have other models, metrics or losses by the same names: a module was changed after it was "
                "imported, or is not the same there. Pass workers=0, start Python anew, or define them in the script."
            )
    return problem


def begin(parent: int, folder: str) -> None:
    """In a new worker process: Ctrl-C is the parent's to handle, and the end of the parent is the worker's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    keep_compilations(folder)
    jax.monitoring.register_event_duration_secs_listener(_notice)


def _notice(event: str, duration_secs: float, **about: Any) -> None:
    if event.endswith("backend_compile_duration") and duration_secs > 0.5:
        _COMPILED.set()


def _give_back() -> None:
    """What a compilation leaves in glibc's heap, 400 MB with LogRadau, goes back to the system."""
    if _COMPILED.is_set():
        _COMPILED.clear()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def keep_compilations(folder: str | None = None) -> None:
    """Switch on JAX's compilation cache, in the user's cache folder unless JAX has one already: for processes that are
    gflow's own."""
    if folder is None:
        folder = cache_folder()
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def cache_folder() -> str:
    chosen = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return chosen or str(home / "gflow" / "jax")
