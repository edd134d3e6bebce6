"""The front door of sweeps: `sweep`."""

import contextlib
import importlib.util
import os
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import xarray as xr
from jaxtyping import ArrayLike, Float
from tqdm.auto import tqdm

from .. import validate
from ..clocks import AbstractClock, LossClock
from ..interrupts import compiling_undisturbed
from ..losses import AbstractLoss, Exponential
from .chunks import Chunk, cut
from .execute import cores, Crew, has_accelerator, Processes, run_here, run_with, undisturbed
from .layout import Layout
from .memory import InMemory
from .plan import MAX_STEPS, plan, RTOL
from .problem import Problem
from .store import OnDisk


class SweepInterrupted(KeyboardInterrupt):
    """Ctrl-C during a sweep; `.dataset` holds the points that were finished."""

    def __init__(self, message: str, dataset: xr.Dataset):
        super().__init__(message)
        self.dataset = dataset


@compiling_undisturbed()
def sweep(
    make_model: Callable[..., Any],
    X: Float[ArrayLike, "N ..."] | None = None,
    y: Float[ArrayLike, " N"] | None = None,
    *,
    over: Mapping[str, Any],
    loss: AbstractLoss = Exponential(),  # noqa: B008
    clock: AbstractClock = LossClock(),  # noqa: B008
    stop: Any = None,
    save: Any = None,
    solver: Any = None,
    rtol: float = RTOL,
    max_steps: int = MAX_STEPS,
    metrics: dict[str, Callable] | None = None,
    digits: int | None = None,
    store: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    workers: int | None = None,
    batching: str | None = None,
    progress: bool | Callable[[int, int], None] = True,
) -> xr.Dataset:
    """Gradient flows of many models: every combination of the values in `over`.

    **Arguments:**

    - `make_model`: called with the values of a point by name, `make_model(scale=0.1, seed=3)`, returns a model for
      `gflow.gradient_flow`. If it takes `dim` and `over` does not give it, it gets the number of features.
    - `X`, `y`: the data, as in `gflow.gradient_flow`; left out where `over` holds `data`.
    - `over`: a dict of dimensions: a list or array of numbers or texts, or a dict of name: value for values of any
      kind. `loss` (gflow losses), `data` (a dict of name: (X, y)) and `rtol` are not given to `make_model`.
    - `loss`, `clock`, `stop`, `save`, `solver`, `rtol`, `max_steps`, `metrics`: as in `gflow.gradient_flow`.
    - `digits`: run `gflow.precise.diagonal_flow` with so many digits. Then `make_model` returns a
      `gflow.models.DiagonalNetwork`, or a dict of `depth` and `scale`, exact numbers or texts (`make_model=dict` does);
      `clock`, `solver`, `rtol`, `max_steps`, `metrics` and `batching` are not for these runs.
    - `store`: a folder (zarr) for the result. Chunks of points that are found there are not computed again, so the same
      call goes on after an interruption; several processes may work on one store. A store that was made with other
      arguments is refused.
    - `executor`: any `concurrent.futures.Executor`, such as `distributed.Client(...).get_executor()`; one of processes
      must spawn them, not fork.
    - `workers`: without an executor, how many processes of this machine to use: one for each core by default, 0 for
      none but this one. Sweeps of a single chunk, and on GPUs and other devices, run in this process.
    - `batching`: how a chunk is computed: by one program, "map" (in turn) or "vmap" (in lock-step), or "single", by a
      call of `gradient_flow` for each point. The default is "single" for matrix factorizations with the square loss,
      whose coordinates are chosen by the values of each, and else "map" on CPUs, where it was measured to be faster
      than "vmap", the default elsewhere.
    - `progress`: a bar over the points, shown in a terminal or notebook only; or a function called as
      `progress(done, total)`.

    **Returns:** a Dataset over the dimensions of `over`, in the order given, and `save`: `neg_log_loss` (gamma in
    nats), `log_time` (log t), `beta` where the models have one, every metric; for each point a `status` (see
    `gflow.Status`), `steps`, `rejections` and `final_neg_log_loss`, where the run stood at its end. Saves that were not
    reached are NaN. With `digits`, numbers are decimal texts, and `digits` says how many are verified. Attributes tell
    arguments, data and versions. With a `store` arrays are read when they are used.

    **Raises:** `ValueError` for bad input, a store of other arguments and a damaged one; `OSError` for a store that
    cannot be written; `SweepError` if workers are lost for good; `SweepInterrupted` on Ctrl-C. Runs that fail do not
    raise: their status says what happened.

    !!! example

        ```python
        >>> import gflow, jax.numpy as jnp
        >>> X, y = jnp.array([[1.0, 2.0], [2.0, -1.0]]), jnp.array([1.0, 1.0])
        >>> over = {"depth": [2], "scale": [0.01, 1.0, 100.0]}
        >>> network = gflow.models.DiagonalNetwork
        >>> ds = gflow.sweep(network, X, y, over=over, stop=gflow.decades(1000), rtol=1e-6, workers=0)
        >>> ds.sizes["scale"], bool((ds.status == gflow.Status.success).all())
        (3, True)

        ```
    """
    validate.require_x64()
    if executor is not None and workers is not None:
        raise ValueError("executor and workers cannot both be given: an executor brings its own.")
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 0):
        raise ValueError(f"workers must be a number of processes, or 0 for none but this one, not {workers!r}.")
    if executor is not None and not isinstance(executor, Executor):
        raise ValueError(f"executor must be a concurrent.futures.Executor, not {executor!r}.")
    if not isinstance(store, str | os.PathLike | None):
        raise ValueError(f"store must be the path of a folder, not {store!r}.")
    validate.check_progress(progress)
    try:
        problem, layout = plan(
            make_model,
            X,
            y,
            over=over,
            loss=loss,
            clock=clock,
            stop=stop,
            save=save,
            solver=solver,
            rtol=rtol,
            max_steps=max_steps,
            metrics=metrics,
            digits=digits,
            batching=batching,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "sweep was interrupted before its first chunk. What store holds stays; the same call goes on from there."
        ) from None
    sink = InMemory(layout) if store is None else _opened(store, layout)
    chunks = list(cut(layout.shape, layout.chunk))
    left = [chunk for chunk in chunks if not sink.holds(chunk)]
    if left and isinstance(sink, OnDisk):
        sink.require_versions()
        # Processes at one store begin at different places, or all would compute the same.
        turn = random.SystemRandom().randrange(len(left))
        left = left[turn:] + left[:turn]
    _run(problem, sink, left, _crew(executor, workers, len(chunks)), progress)
    return sink.dataset()


def _opened(store: str | os.PathLike[str], layout: Layout) -> OnDisk:
    try:
        # Resolved, for a store is made beside its place: that of a link is elsewhere.
        path = Path(store).expanduser().resolve()
        path.exists()
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"store must be the path of a folder, not {store!r}: {error}.") from error
    if "::" in str(path):
        raise ValueError(f"store must be a path without '::', which zarr takes for a chain of stores, not {store!r}.")
    if path == Path.cwd().resolve():
        raise ValueError(f"store must be a folder of its own, not {store!r}, the folder that this process is in.")
    if importlib.util.find_spec("zarr") is None or importlib.util.find_spec("google_crc32c") is None:
        raise ImportError("store needs zarr 3 and google-crc32c; install gflow[sweep].")
    return OnDisk(path, layout)


def _crew(executor: Executor | None, workers: int | None, chunks: int) -> Crew | None:
    """Who computes the chunks; None for this process. It is the same for the last chunk that is left as for all, since
    by other threads the last digit may be another."""
    if executor is not None:
        return Crew(executor)
    able = importlib.util.find_spec("loky") is not None
    if workers is None:
        alone = chunks <= 1 or has_accelerator() or not able
        workers = 0 if alone else min(cores(), chunks)
        return Processes(workers) if workers > 1 else None
    if workers and not able:
        raise ImportError("workers need loky; install gflow[sweep], or pass workers=0 to run in this process.")
    return Processes(workers) if workers else None


def _run(
    problem: Problem,
    sink: InMemory | OnDisk,
    left: list[Chunk],
    crew: Crew | None,
    progress: bool | Callable[[int, int], None],
) -> None:
    total = sink.layout.size
    done = total - sum(chunk.size for chunk in left)
    unmade: dict[str, str] = {}

    with _bar(total, done, progress) as report:

        def take(chunk: Chunk, result: Any) -> None:
            nonlocal done
            values, failures = result
            try:
                sink.write(chunk, values)
            except OSError as error:
                raise OSError(
                    f"store {_place(sink)} cannot be written: {error.strerror or error}. {done:,} of {total:,} points "
                    "are on disk and sound; when that is mended, the same call goes on from there."
                ) from error
            unmade.update(failures)
            done += chunk.size
            report(done)

        def wanted() -> Iterable[Chunk]:
            """Another process may have been at the same store."""
            nonlocal done
            for chunk in left:
                if sink.holds(chunk):
                    done += chunk.size
                    report(done)
                else:
                    yield chunk

        try:
            if crew is None:
                run_here(problem, wanted(), take)
            else:
                run_with(problem, wanted(), take, crew, ahead=0 if isinstance(sink, OnDisk) else 1)
        except KeyboardInterrupt:
            kept = (
                f"They are in {_place(sink)}, and the same call goes on from there."
                if isinstance(sink, OnDisk)
                else "They are the .dataset of this exception; with store= the same call could go on from there."
            )
            with undisturbed():
                raise SweepInterrupted(
                    f"sweep was interrupted when {done:,} of {total:,} points were finished. {kept}", sink.dataset()
                ) from None
    if unmade:
        point, text = next(iter(unmade.items()))
        warnings.warn(
            f"make_model failed at {len(unmade):,} points, whose status says so and whose values are missing; at "
            f"{point} it said: {text}",
            stacklevel=3,
        )


def _place(sink: InMemory | OnDisk) -> str:
    return str(sink.path) if isinstance(sink, OnDisk) else "memory"


@contextlib.contextmanager
def _bar(total: int, done: int, progress: bool | Callable[[int, int], None]) -> Iterator[Callable[[int], None]]:
    if callable(progress):
        yield lambda now: progress(now, total)
        return
    # None: shown in a terminal only.
    with tqdm(total=total, initial=done, unit=" points", disable=None if progress else True) as bar:

        def report(now: int) -> None:
            bar.update(now - bar.n)

        yield report
