"""Gradient flow of any small model in arbitrary precision: `flow`.

Two solutions of different order, precision and steps (`gflow.precise.flow_run`) show how many digits are right.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
from flint import arb
from mpmath import mp, mpf
from tqdm.auto import tqdm

from . import inputs
from .derivatives import check
from .exact import from_mpf, LOG2_10, rational, to_mpf, working_precision
from .flow_run import Run, scales_of
from .result import span, whole_digits
from .threads import one_thread
from .verify import point_digits, relative_digits

_ROUNDS = 4
_CLOCKS = ("time", "logtime", "loss")


@dataclass(frozen=True, eq=False)
class PreciseFlow:
    """What `gflow.precise.flow` returns; arrays of mpmath numbers with a leading save axis.

    - `theta` (S, P), `time` (S,), `log_time` (S,), `loss` (S,).
    - `digits`: significant digits of the worst entry that are verified; `verified`: per quantity and save.
    - `success`, `status`, `stats` as in `PreciseTrajectory`.

    !!! example

        ```python
        >>> from gflow import precise
        >>> run = precise.flow(lambda u: u[0] ** 2 / 2, [1], stop=1, digits=15)  # e^-1
        >>> float(run.theta[-1, 0]), run.digits >= 15
        (0.36787944117144233, True)

        ```
    """

    theta: np.ndarray
    time: np.ndarray
    log_time: np.ndarray
    loss: np.ndarray
    digits: int
    verified: dict[str, np.ndarray]
    success: bool
    status: str
    stats: dict[str, Any]

    def __str__(self) -> str:
        steps = " and ".join(str(run["steps"]) for run in self.stats["runs"])
        rows = [("status", self.status), ("digits", str(self.digits)), ("t", span(self.time)), ("L", span(self.loss)),
                ("steps", steps), ("seconds", f"{self.stats['seconds']:.3g}")]  # fmt: skip
        return "PreciseFlow\n" + "\n".join(f"  {name.ljust(8)}{text}" for name, text in rows)

    __repr__ = __str__


def flow(
    loss: Callable[[list[Any]], Any],
    theta0: Any,
    *,
    clock: Any = "time",
    stop: Any = None,
    save: Any = None,
    digits: int = 50,
    relative: bool = True,
    max_steps: int = 100_000,
    progress: bool | Callable[[float], None] = False,
) -> PreciseFlow:
    """Integrate dtheta/dt = -grad L(theta) for a function of a few mpmath numbers, to any number of digits.

    **Arguments:**

    - `loss`: a function of a list of mpmath numbers that returns one, made of arithmetic, powers and functions of
      mpmath (exp, log, tanh, ...). It is called with complex numbers too, which is how its derivatives are found; it
      must be analytic.
    - `theta0`: starting point, shape (P,), exact numbers as in `gflow.precise.diagonal_flow`.
    - `clock`: what `stop` and `save` count in: "time", "logtime" (log(1 + t)), "loss" (-log L), or `gflow.TimeClock()`
      and its like.
    - `stop`, `save`: where to end and what to save, as in `gflow.precise.diagonal_flow`.
    - `digits`: asked of every coordinate of theta, relative to itself (`relative=True`) or to the largest.
    - `max_steps`: the largest number of steps of one solution.
    - `progress`: show a progress bar (in units of the clock), or a function that is called with the position.

    **Returns:** a `PreciseFlow`, with digits on which two solutions of different order, precision and steps agree. On
    Ctrl-C the saves so far come back, and the status says so.

    **Raises:** `ValueError` for bad input, and for a loss that is not analytic at theta0.

    !!! example

        ```python
        >>> from gflow import precise
        >>> run = precise.flow(lambda u: (u[0] * u[1] - 1) ** 2 / 2, ["1e-60", "2e-60"], stop=150, digits=25)
        >>> import mpmath
        >>> mpmath.nstr(run.theta[-1, 0] * run.theta[-1, 1], 20), run.digits >= 25
        ('1.0', True)

        ```
    """
    began = time.perf_counter()
    digits = inputs.check_digits(digits)
    kind = _clock(clock)
    try:
        start = [rational(v, "theta0") for v in theta0]
    except TypeError:
        raise ValueError(f"theta0 must be a list of numbers, not {theta0!r}.") from None
    if not start:
        raise ValueError("theta0 must hold at least one number.")
    with working_precision(400), mp.workdps(100):
        here = [to_mpf(arb(v), 100) for v in start]
        check(loss, here, scales_of(here))
        first = arb(0) if kind != "loss" else -from_mpf(mpf(loss(here))).log()
        if not first.is_finite():
            raise ValueError(f"loss must be positive on the clock of the loss, not {mpmath.nstr(loss(here), 6)}.")
    points = inputs.check_points(stop, save, lambda: first, "the clock")
    count = len(points) if save is None or stop is None else len(list(save))
    values, verified, runs = None, [], []
    more, reached, status, done = 0, 0.0, "", False
    with working_precision(64), one_thread(), _Bar(points, progress) as report:
        for attempt in range(_ROUNDS):
            run = Run(loss, start, kind, digits + more, 6 * (attempt % 2), relative, max_steps, report)
            trouble = run.solve(points)
            runs.append(run.counts)
            if trouble:
                pairs = zip(values or [], run.saves, strict=False)
                verified = [_agreement(a, b, run.carried, relative) for a, b in pairs]
                values = run.saves if values is None or len(run.saves) >= len(values) else values
                status = f"{trouble}: {len(values)} of {len(points)} saves are there, {len(verified)} verified."
                break
            if values is not None:
                verified = [_agreement(a, b, run.carried, relative) for a, b in zip(values, run.saves, strict=True)]
                reached = min(min(v.values()) for v in verified)
                more += math.ceil(max(digits - reached, 0)) + 3
            values = run.saves
            if reached >= digits:
                status, done = f"The flow reached the stop; two solutions agree to {math.floor(reached)} digits.", True
                break
        else:
            status = f"The flow reached the stop, but only {math.floor(reached)} of {digits} digits could be verified."
    values, verified = (values or [])[:count], verified[:count]
    table = {name: np.array([v[name] for v in verified]) for name in ("theta", "log_time")}
    kept = digits + 5
    column = lambda name: np.array([to_mpf(v[name][0], kept) for v in values], dtype=object)
    theta = np.array([[to_mpf(t, kept) for t in v["theta"]] for v in values], dtype=object)
    return PreciseFlow(
        theta.reshape(len(values), len(start)), column("time"), column("log_time"), column("loss"),
        whole_digits(table) if len(verified) == count else 0, table, done, status,
        {"runs": runs, "seconds": time.perf_counter() - began},
    )  # fmt: skip


def _clock(clock: Any) -> str:
    word = clock if isinstance(clock, str) else type(clock).__name__.removesuffix("Clock").lower()
    if word not in _CLOCKS:
        raise ValueError(f"clock must be 'time', 'logtime', 'loss' or one of gflow's clocks, not {clock!r}.")
    return word


def _agreement(first: dict, second: dict, most: float, relative: bool) -> dict[str, float]:
    with working_precision(int(LOG2_10 * (most + 30))):
        return {
            "theta": relative_digits(first["theta"], second["theta"], most, 1e6 if relative else 0.0),
            "log_time": point_digits(first["log_time"][0], second["log_time"][0], most),
        }


class _Bar:
    """A bar in units of the clock, or the user's function."""

    def __init__(self, points: list, progress: bool | Callable[[float], None]):
        with working_precision(100):
            self.total = float(points[-1]())
        self.progress = progress

    def __enter__(self) -> Callable[[arb], None]:
        self.bar = tqdm(total=round(self.total, 3), bar_format=_FORMAT) if self.progress is True else None
        return self.report

    def report(self, place: arb) -> None:
        here = min(float(place), self.total)
        if callable(self.progress):
            self.progress(here)
        elif self.bar is not None:
            self.bar.n = round(here, 3)
            self.bar.refresh()

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()


_FORMAT = "{l_bar}{bar}| {n:.3f}/{total:.3f} [{elapsed}<{remaining}]"
