"""A process for a solver: it compiles, runs and times there, and is ended at the wall limit."""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .peers import SOLVERS


class Worker:
    """A process in which one solver runs, so that a run can be ended at the wall limit."""

    def __init__(self, key: str, one_core: bool):
        self._context = multiprocessing.get_context("spawn")
        self._key, self._one_core, self._process = key, one_core, None
        # Depths that the process has compiled; it takes them with it.
        self.compiled: set[int] = set()

    def ask(self, limit: float, *request: Any) -> Any:
        """The answer to a request, or None after `limit` seconds: then the process is ended."""
        if self._process is None:
            self._pipe, theirs = self._context.Pipe()
            # Not a daemon: sweeps start processes of their own.
            self._process = self._context.Process(target=_serve, args=(theirs, self._key, self._one_core))
            self._process.start()
            theirs.close()
        self._pipe.send(request)
        try:
            if self._pipe.poll(limit):
                return self._pipe.recv()
        except (EOFError, ConnectionError):
            self.close()
            return {"reason": "the process crashed"}
        self.close()
        return None

    def close(self) -> None:
        """Have the process end, by force if it is busy, and with it the processes that it has started."""
        process, self._process = self._process, None
        self.compiled.clear()
        if process is None or process.pid is None:
            return
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        process.join(1.0)
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
        self._pipe.close()


def _serve(pipe: Any, key: str, one_core: bool) -> None:
    if hasattr(os, "setsid"):
        # A process group of its own, which `Worker.close` can end as one.
        os.setsid()
    if one_core and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    ready: dict[Any, Callable] = {}
    with _quiet():
        while True:
            try:
                message = pipe.recv()
            except EOFError:
                return
            if message is None:
                return
            kind, *request = message
            try:
                pipe.send({"prepare": _prepare, "run": _run, "sweep": _sweep}[kind](key, ready, *request))
            except Exception as error:
                pipe.send({"reason": f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"})


def _prepare(key: str, ready: dict, depth: int) -> dict:
    """Compile, and say what that took beyond a second run."""
    began = time.perf_counter()
    ready[depth] = SOLVERS[key].prepare(depth)
    ready[depth](1.0, SOLVERS[key].warm, 1e-4)
    first = time.perf_counter() - began
    began = time.perf_counter()
    ready[depth](1.0, SOLVERS[key].warm, 1e-4)
    return {"compile_seconds": max(0.0, first - (time.perf_counter() - began))}


def _run(key: str, ready: dict, depth: int, scale: float, gamma: float, rtol: float, repeats: int) -> dict:
    seconds: list[float] = []
    answer = None
    while len(seconds) < repeats and sum(seconds) < 1.0:
        began = time.perf_counter()
        answer = ready[depth](scale, gamma, rtol)
        seconds.append(time.perf_counter() - began)
    assert answer is not None
    # The first of several also pays for cold caches.
    timed = seconds[1:] or seconds
    return {"seconds": float(np.median(timed)), "repeats": len(timed), **answer._asdict()}


def _sweep(key: str, ready: dict, depth: int, scales: np.ndarray, gamma: float, rtol: float) -> dict:
    sweep = SOLVERS[key].sweep
    assert sweep is not None
    began = time.perf_counter()
    if ("sweep", depth) not in ready:
        ready["sweep", depth] = sweep(depth)
    if ("sweep", depth, scales.size) not in ready:
        ready["sweep", depth, scales.size] = ready["sweep", depth]
        ready["sweep", depth](scales, 10.0, 1e-4)
    compile_seconds = time.perf_counter() - began
    began = time.perf_counter()
    betas = ready["sweep", depth](scales, gamma, rtol)
    return {"seconds": time.perf_counter() - began, "betas": betas, "compile_seconds": compile_seconds}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """LSODA and SUNDIALS print their failures from C; the answers carry them already."""
    import warnings

    warnings.simplefilter("ignore")
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
    yield
