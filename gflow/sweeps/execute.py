"""Run chunks here or by an executor, and hand each result to the sink as it comes.

With a store no more chunks are under way than there are workers: a finished one is on disk before its worker gets the
next.
"""

import contextlib
import hashlib
import os
import signal
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, FIRST_COMPLETED, Future, wait
from typing import Any

import jax

from . import worker
from .chunks import Chunk
from .pack import pack
from .problem import Problem

# So often is a chunk given out whose worker is lost.
_TRIES = 3
# Seconds after which an idle worker process ends.
_IDLE = 300
# Seconds after which it is looked at if there are more workers.
_LOOK = 5.0


class SweepError(RuntimeError):
    """A sweep that could not be completed. What was finished is in its store."""


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Further Ctrl-C are not heard while what the first began is brought to its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """What starts here never hears Ctrl-C, not even before it can say so for itself."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_here(problem: Problem, chunks: Iterable[Chunk], take: Callable[[Chunk, Any], None]) -> None:
    for chunk in chunks:
        take(chunk, worker.compute(problem, chunk))


def run_with(
    problem: Problem, chunks: Iterable[Chunk], take: Callable[[Chunk, Any], None], crew: "Crew", ahead: int
) -> None:
    """`ahead`: how many chunks wait at each worker beside the one under way."""
    packed = pack(problem)
    key = hashlib.sha256(packed).hexdigest()
    worker.HERE[key] = problem
    waiting, lost = iter(chunks), deque[Chunk]()
    running: dict[Future, Chunk] = {}
    tries: Counter[Chunk] = Counter()
    more = True
    try:
        while more or lost or running:
            room = crew.size() * (1 + ahead)
            while len(running) < room:
                chunk = lost.popleft() if lost else next(waiting, None)
                if chunk is None:
                    more = False
                    break
                running[crew.submit(worker.compute_packed, key, packed, chunk, tries[chunk])] = chunk
            for future in wait(running, timeout=_LOOK, return_when=FIRST_COMPLETED).done:
                chunk = running.pop(future)
                try:
                    result = future.result()
                except (Exception, CancelledError) as error:
                    # An error of the computation comes back as a Failure: here a worker or the way to it was lost.
                    crew.recover(error)
                    tries[chunk] += 1
                    if tries[chunk] == _TRIES:
                        raise SweepError(
                            f"the chunk from {problem.describe(chunk.begin)} lost its worker {_TRIES} times, killed "
                            f"perhaps for want of memory; pass fewer workers, or workers=0. The last time: "
                            f"{type(error).__name__}: {error}"
                        ) from error
                    lost.append(chunk)
                    continue
                if isinstance(result, worker.Failure):
                    if isinstance(result.error, worker.OtherModels):
                        if not crew.renew():
                            raise SweepError(str(result.error))
                        lost.extend([chunk, *running.values()])
                        running.clear()
                        break
                    raise SweepError(
                        f"the chunk of {chunk.size} points from {problem.describe(chunk.begin)} failed: "
                        f"{type(result.error).__name__}: {result.error}"
                    ) from result.error
                take(chunk, result)
    except BaseException:
        with undisturbed():
            for future in running:
                future.cancel()
            crew.abandon()
        raise


class Crew:
    """An executor of the user's. Raises ValueError for one that would wait for ever."""

    def __init__(self, executor: Executor):
        context = getattr(executor, "_mp_context", None)
        if context is not None and context.get_start_method() == "fork":
            raise ValueError(
                "executor must not fork this process, in which JAX has threads; make it as ProcessPoolExecutor("
                'mp_context=multiprocessing.get_context("spawn")), or leave executor out.'
            )
        self.executor = executor

    def size(self) -> int:
        """How many tasks the executor runs at once, now: workers of a cluster come and go."""
        workers = getattr(self.executor, "_max_workers", None)
        if isinstance(workers, int):
            return workers
        client = getattr(self.executor, "_client", None)
        if client is not None:
            # One that was closed has nothing to ask any more; what it takes next tells.
            with contextlib.suppress(Exception):
                return max(1, sum(client.nthreads().values()))
            return 1
        return 2 * cores()

    def submit(self, function: Callable, *arguments: Any) -> Future:
        try:
            return self.executor.submit(function, *arguments)
        except Exception as error:
            self.recover(error)
            raise SweepError(
                f"the executor takes no work ({type(error).__name__}: {error}); make a new one."
            ) from error

    def recover(self, error: BaseException) -> None:
        """After the loss of a worker: raise, if there are no others."""
        if isinstance(error, BrokenExecutor):
            raise SweepError(
                "the executor has lost its workers and takes no more; make a new one (do its processes start with "
                f"JAX_ENABLE_X64=1 and memory enough?). It says: {type(error).__name__}: {error}"
            ) from error

    def renew(self) -> bool:
        """Whether there are other workers now, which have imported everything anew."""
        return False

    def abandon(self) -> None:
        pass


class Processes(Crew):
    """Worker processes of this machine. They stay for the next sweep, compiled programs and all."""

    _pool: Any = None
    _made: tuple[int, str] | None = None

    def __init__(self, workers: int):
        self.workers = workers
        self._renewed = False

    def size(self) -> int:
        return self.workers

    def submit(self, function: Callable, *arguments: Any) -> Future:
        for _ in range(_TRIES):
            try:
                with _deaf():
                    return self._workers().submit(function, *arguments)
            except BrokenExecutor:
                Processes._pool = None
        raise SweepError("worker processes end as soon as they start; pass workers=0 to run in this process.")

    def _workers(self) -> Any:
        from loky import ProcessPoolExecutor

        # Compilations are no leak; a worker that has made many is replaced, as it should be.
        warnings.filterwarnings("ignore", "A worker was restarted while some jobs", UserWarning)
        wanted = (self.workers, worker.cache_folder())
        if Processes._pool is None or Processes._made != wanted:
            self.abandon()
            # Threads of BLAS on small systems get in each other's way, and XLA hands every small operation from thread
            # to thread, which doubles the cost of a small flow: NPROC is how many it may use.
            environment = {"JAX_ENABLE_X64": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            environment["NPROC"] = os.environ.get("NPROC", str(max(1, (os.cpu_count() or 1) // self.workers)))
            Processes._pool = ProcessPoolExecutor(
                self.workers,
                timeout=_IDLE,
                env=environment,
                initializer=worker.begin,
                initargs=(os.getpid(), worker.cache_folder()),
            )
            Processes._made = wanted
        return Processes._pool

    def recover(self, error: BaseException) -> None:
        if isinstance(error, BrokenExecutor):
            # The next submission starts others.
            Processes._pool = None

    def renew(self) -> bool:
        if self._renewed:
            return False
        self._renewed = True
        self.abandon()
        return True

    def abandon(self) -> None:
        """End the workers, chunks under way and all."""
        pool, Processes._pool = Processes._pool, None
        if pool is not None:
            pool.shutdown(wait=True, kill_workers=True)


def has_accelerator() -> bool:
    return jax.default_backend() != "cpu" or jax.local_device_count() > 1
