"""The front door for diagonal networks: `diagonal_flow`."""

import math
import time
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
from flint import arb, arb_mat
from tqdm.auto import tqdm

from . import inputs
from .classification import Margins
from .exact import LOG2_10, log10, to_mpf, working_precision
from .matrix import Failure
from .network import DualNetwork
from .path import Run
from .records import Settings, State, Stuck
from .regression import Residuals
from .result import PreciseTrajectory, whole_digits
from .threads import one_thread
from .times import log_time
from .verify import mixed_digits, point_digits, relative_digits

_ROUNDS = 4


def diagonal_flow(
    X: Any,
    y: Any,
    *,
    depth: int = 2,
    scale: Any = 1,
    stop: Any = None,
    save: Any = None,
    digits: int = 50,
    loss: Any = "exponential",
    reduction: str = "mean",
    progress: bool | Callable[[float], None] = False,
) -> PreciseTrajectory:
    """Gradient flow of a diagonal network f(x) = beta . x, beta = u_+^depth - u_-^depth, to any number of digits.

    Inputs are exact: an int, a text such as "1/8" or "1e100", a `Fraction` or an mpf is what it says, a float is the
    binary fraction that it stores. Losses down to 10^(-10^1000) are ordinary.

    **Arguments:**

    - `X`, `y`: samples, shape (N, d), and labels -1 or +1, shape (N,) (targets, for the square loss).
    - `depth`: D >= 2. `scale`: the initial scale alpha > 0 of all u_+ and u_-, or one per coordinate, shape (d,).
    - `stop`: -log L in nats where to end; the last of `save` by default. See `gflow.precise.decades`.
    - `save`: increasing values of -log L, shape (S,), above that of the start; `stop` alone by default. They do not
      change the path.
    - `digits`: decimal digits asked of everything that is saved, at least 15.
    - `loss`: "exponential", "logistic" or "square". `reduction`: "mean" or "sum" over the samples.
    - `progress`: show a progress bar (decades of gamma = -log L), or a function to be called with them.

    **Returns:** a `PreciseTrajectory`. Its digits are those on which two solutions of different order, precision and
    steps agree; where they are too few, a third and fourth follow, and then the status says so. On Ctrl-C the saves so
    far come back, and the status says that.

    **Raises:** `ValueError` for bad input; data that no beta separates (decided exactly) included.

    Source: dual form of Moroshko et al. 2020 (arXiv 2007.06738); collocation in log form, see docs/precise.md.

    !!! example

        ```python
        >>> from gflow import precise
        >>> run = precise.diagonal_flow([[1, 2], [2, -1]], [1, 1], scale="1/8", stop="1e100", digits=30)
        >>> import mpmath
        >>> [mpmath.nstr(b / run.neg_log_loss[-1], 25) for b in run.beta[-1]], run.digits >= 30
        (['0.6', '0.2'], True)

        ```
    """
    began = time.perf_counter()
    digits, depth = inputs.check_digits(digits), inputs.check_depth(depth)
    loss = inputs.check_choice(loss, "loss", inputs.LOSSES)
    reduction = inputs.check_choice(reduction, "reduction", ("mean", "sum"))
    rows, targets = inputs.check_samples(X, y, loss != "square")
    scales = inputs.check_scales(scale, len(rows[0]))
    square = loss == "square"
    if not square:
        rows = [[t * v for v in row] for row, t in zip(rows, targets, strict=True)]
    network = DualNetwork(rows, depth, scales)
    mean = reduction == "mean"
    make = lambda: Residuals(network, targets, mean) if square else Margins(network, loss == "logistic", mean)
    if square:
        inputs.check_targets(targets)
    points = inputs.check_points(stop, save, lambda: _start(make()))
    if square:
        inputs.check_reachable(rows, targets, mean, points[-1])
    else:
        inputs.check_separable(rows)
    with working_precision(64), one_thread():
        answer = _verified(network, make, points, digits, progress)
    shown = len(points) if save is None or stop is None else len(list(save))
    return _collect(network, answer, shown, digits, loss, reduction, began)


def _start(problem: Any) -> arb:
    problem.refresh()
    return problem.gamma([arb(0)] * problem.samples)


class _Answer:
    """What is known of the saves: values of the last solution and digits by comparison with those before."""

    def __init__(self):
        self.values: list[dict[str, list[arb]]] = []
        self.verified: list[dict[str, float]] = []
        self.runs: list[dict[str, int]] = []
        self.status = ""


def _verified(network: DualNetwork, make: Callable, points: list, digits: int, progress: Any) -> _Answer:
    """Solve, and solve again with more, until two solutions agree to `digits`."""
    answer, seed = _Answer(), None
    earlier: list[list[dict[str, list[arb]]]] = []
    more, reached = 0, 0.0
    with _bar(points, progress) as report:
        for attempt in range(_ROUNDS):
            settings = _settings(digits + more, attempt % 2)
            run = Run(network, make(), settings, seed, lambda height, attempt=attempt: report(height, attempt))
            interrupted = stuck = False
            try:
                run.solve(points)
            except KeyboardInterrupt:
                interrupted = True
            except (Stuck, Failure):
                stuck = True
            answer.runs.append(run.path.counts)
            values = [_values(run, state) for state in run.saves]
            if interrupted or stuck:
                before = earlier[-1] if earlier else []
                done = min(len(values), len(before))
                answer.values = before if done < len(before) else values
                answer.verified = _best(earlier, values, settings)
                what = "The run was interrupted" if interrupted else "The steps shrank to nothing"
                answer.status = f"{what}: {len(answer.values)} of {len(points)} saves are there, {done} verified."
                return answer
            answer.values = values
            if earlier:
                answer.verified = _best(earlier, values, settings)
                reached = min(min(v.values()) for v in answer.verified)
                if reached >= digits:
                    answer.status = f"The flow reached the stop; two solutions agree to {math.floor(reached)} digits."
                    return answer
                # Rates, and physical time with them, gain fewer digits than are added.
                more += math.ceil(1.5 * (digits - reached)) + 3
            earlier.append(values)
            seed = run.path
    answer.status = f"The flow reached the stop, but only {math.floor(reached)} of {digits} digits could be verified."
    return answer


def _best(earlier: list, values: list[dict], settings: Settings) -> list[dict[str, float]]:
    """Digits of every save by the solution before that agrees best: one that went wrong does not count for ever."""
    found = [[_agreement(a, b, settings) for a, b in zip(before, values, strict=False)] for before in earlier]
    return [max(each, key=lambda digits: min(digits.values())) for each in zip(*found, strict=True)]


def _settings(digits: int, other: int) -> Settings:
    """Order, precision and tolerance, measured to be near the fastest; those of the `other` solution all differ."""
    stages = max(8, round(8 + 0.65 * digits)) + 6 * other
    # States are right to more digits than rates, by which steps are chosen. Saved rates get a short step of their own,
    # being wrong by about stages^2 times the coefficients that are left out.
    at_saves = digits + 2 + 2 * math.log10(stages)
    return Settings(stages, digits + 13 + 6 * other, 0.6 * digits + 3 + 2 * other, at_saves)


def _values(run: Run, state: State) -> dict[str, list[arb]]:
    """Everything that is saved of a state."""
    run.set_precision(max(log10(state.gamma), 0.0) + run.problem.begin(state))
    network = run.network
    beta = network.beta(state.place)
    assert beta is not None
    margins = (arb_mat(1, network.inputs, beta) * network.XT).entries()
    direct = run.problem.log_weights(margins, state.gamma)
    shared = {
        "neg_log_loss": [state.gamma], "dual": state.z, "beta": [v.mid() for v in beta],
        "log_ratio": network.log_ratio(state.place),
    }  # fmt: skip
    if not run.problem.exponential:
        outputs = [m - y for m, y in zip(margins, run.problem.y, strict=True)]
        return shared | {"residuals": outputs, "log_time": [log_time(run, state)]}
    # Far from the support the weights follow from the margins; near it the margins are too large to tell.
    weights = [b if a < -40 else a for a, b in zip(state.weights, direct, strict=True)]
    return shared | {"log_weights": weights, "log_time": [log_time(run, state)]}


def _agreement(first: dict, second: dict, settings: Settings) -> dict[str, float]:
    """Digits on which two solutions agree, never more than carried."""
    most = settings.digits - 4
    with working_precision(int(LOG2_10 * (most + max(0.0, log10(second["neg_log_loss"][0])) + 20))):
        found = {name: relative_digits(first[name], second[name], most) for name in ("dual", "beta")}
        late = point_digits(first["log_time"][0], second["log_time"][0], most)
        if "residuals" in second:
            residuals = relative_digits(first["residuals"], second["residuals"], most)
            return found | {"residuals": residuals, "log_time": late}
        weights = [[w.exp() if w > -1000 else arb(0) for w in values["log_weights"]] for values in (first, second)]
        return found | {
            "log_weights": mixed_digits(first["log_weights"], second["log_weights"], most),
            "weights": min(most, *(point_digits(a, b, most) for a, b in zip(*weights, strict=True))),
            "log_time": late,
        }


def _collect(
    network: DualNetwork, answer: _Answer, shown: int, digits: int, loss: str, reduction: str, began: float
) -> PreciseTrajectory:
    values, verified = answer.values[:shown], answer.verified[:shown]
    square = loss == "square"
    names = ("dual", "beta", "log_time", *(("residuals",) if square else ("log_weights", "weights")))
    table = {name: np.array([v[name] for v in verified]) for name in names}
    kept = min(digits, whole_digits(table)) + 5 if verified else digits
    array = lambda name, width: np.array(
        [[to_mpf(v, kept) for v in row[name]] for row in values], dtype=object
    ).reshape(len(values), width)
    log_weights = weights = residuals = None
    if square:
        residuals = array("residuals", network.samples)
    else:
        log_weights = array("log_weights", network.samples)
        with mpmath.workdps(kept):
            weights = np.array([mpmath.exp(w) for w in log_weights.ravel()], dtype=object).reshape(log_weights.shape)
    heights = [math.ceil(max(0.0, log10(row["neg_log_loss"][0]))) for row in values]
    vector = lambda name: np.array(
        [to_mpf(row[name][0], kept + height) for row, height in zip(values, heights, strict=True)], dtype=object
    )
    reached = whole_digits(table) if len(verified) == shown and verified else 0
    return PreciseTrajectory(
        neg_log_loss=vector("neg_log_loss"),
        dual=array("dual", network.samples),
        beta=array("beta", network.inputs),
        log_weights=log_weights,
        weights=weights,
        residuals=residuals,
        log_time=vector("log_time"),
        log_ratio=array("log_ratio", 2 * network.inputs).reshape(len(values), 2, network.inputs),
        digits=reached,
        verified=table,
        success=len(values) == shown and reached >= digits,
        status=answer.status,
        stats={"runs": answer.runs, "seconds": time.perf_counter() - began},
        depth=network.depth,
        scale=np.array([_exactly(a, kept) for a in network.scales], dtype=object),
        loss=loss,
        reduction=reduction,
        requested=digits,
    )


def _exactly(value: Any, digits: int) -> mpmath.mpf:
    with working_precision(int(LOG2_10 * digits) + 20):
        return to_mpf(arb(value), digits)


class _bar:
    """A bar, or the user's function, that is told log10 gamma of the solution that is under way."""

    def __init__(self, points: list, progress: bool | Callable[[float], None]):
        with working_precision(100):
            self.target = max(log10(points[-1]()), 0.1)
        self.progress = progress

    def __enter__(self) -> Callable[[float, int], None]:
        self.bar, self.pass_ = None, -1
        return self.report

    def report(self, height: float, attempt: int) -> None:
        here = min(max(height, 0.0), self.target)
        if callable(self.progress):
            self.progress(here)
        elif self.progress:
            if attempt != self.pass_:
                self.close()
                name = "solving" if attempt == 0 else "verifying"
                self.bar = tqdm(total=round(self.target, 1), desc=name, bar_format=_FORMAT)
                self.pass_ = attempt
            assert self.bar is not None
            self.bar.n = round(here, 1)
            self.bar.refresh()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def __exit__(self, *error: object) -> None:
        self.close()


_FORMAT = "{l_bar}{bar}| {n:.1f}/{total:.1f} decades of gamma [{elapsed}<{remaining}]"
