"""Samples that leave the support and come back: where a step has to end before one that sleeps wakes up.

Far from the support log-weights are of the size of -gamma, and a sample that comes back does so within a few units of
gamma, a kink of relative width 1/gamma. A sample sleeps as long as its weight is below rounding; then it is left out of
the stage equations, so the solution without it is smooth and goes on beyond the kink. What its log-weight would be
there tells where the step has to end: at log-weight -1.5 times that of rounding.
"""

from dataclasses import dataclass
from typing import Any

from flint import arb, arb_mat, ctx

from .exact import log10, rounding
from .grids import LossGrid


def sleepers(weights: list[arb]) -> list[int]:
    return [k for k, w in enumerate(weights) if w < -2 * rounding()]


def wakes(weights: list[arb], asleep: list[int]) -> bool:
    """Whether a sample that was left out should not have been."""
    lowest = -rounding()
    return any(weights[k] > lowest for k in asleep)


def slopes(run: Any, state: Any) -> list[arb]:
    """d W_n / d gamma, where weights are exponentials of the margins."""
    network = run.network
    rates = run.problem.velocity(state.weights)
    push = (arb_mat(1, network.samples, rates) * network.X).entries()
    bends = network.slopes(state.place)
    moved = (arb_mat(1, network.inputs, [b * p for b, p in zip(bends, push, strict=True)]) * network.XT).entries()
    total = sum((v * p for v, p in zip(moved, rates, strict=True)), arb(0))
    return [(1 - v / total).mid() for v in moved]


@dataclass(eq=False)
class Limits:
    """How far in gamma at constant rates: `end` to where a sleep ends, `start` to where a waking weight is felt."""

    end: arb | None = None
    start: arb | None = None

    def apply(self, gamma: arb, length: arb) -> arb:
        """The end of a step that would have that length."""
        if self.start is not None and self.start < gamma / 1000:
            length = self.start
        if self.end is not None and self.end < gamma / 1000:
            # Rates change over gamma: what is left out of the way shrinks quadratically.
            length = length.min(self.end * (1 - 10 * self.end / gamma))
        return (gamma + length).mid()


def limits(run: Any, state: Any, asleep: list[int], tolerance: float) -> Limits:
    far = 2.3 * (tolerance + 5.0)
    waking = [k for k, w in enumerate(state.weights) if k not in asleep and w < -far]
    if not asleep and not waking:
        return Limits()
    found = slopes(run, state)
    ends = [(-1.5 * rounding() - state.weights[k]) / found[k] for k in asleep if found[k] > 0]
    starts = [(-0.9 * far - state.weights[k]) / found[k] for k in waking if found[k] > 0]
    nearest = lambda values: min((v.mid() for v in values), default=None)
    return Limits(nearest(ends), nearest(starts))


def wake(record: Any, asleep: list[int], tolerance: float) -> arb | None:
    """gamma near the end of the first sleep within a step, by the polynomials of the log-weights; None without one."""
    grid: LossGrid = record.grid
    tableau, n = record.tableau, len(record.before.weights)
    found = []
    for k in asleep:
        W = [(v - r).mid() for v, r in zip(record.stages.V[k::n], record.stages.pace, strict=True)]
        start = record.before.weights[k]
        # As far as the polynomial may be wrong.
        guard = min(max(abs(v) for v in W) * arb(10) ** -int(tolerance), abs(start) / 8)
        target = (-1.5 * rounding() - guard).mid()
        if not any(w > -1.25 * rounding() for w in W):
            continue
        after = next(j for j, w in enumerate(W) if w > target)
        if after == 0:
            # Too near to the start to be told from there.
            found.append(tableau.nodes[0])
            continue
        series = tableau.coefficients * arb_mat(len(W), 1, [w - target for w in W])
        height = lambda s, series=series: tableau.evaluate(series, [s])[0]
        low, high = tableau.nodes[after - 1], tableau.nodes[after]
        found.append(_root(height, low, high, W[after - 1] - target, W[after] - target))
    if not found:
        return None
    return grid.clock([min(found)]).gamma[0]


def _root(height: Any, low: arb, high: arb, below: arb, above: arb) -> arb:
    """The end below of a bracket of a zero, by the Illinois method (Dowell & Jarratt 1971, doi 10.1007/BF01934364)."""
    side = 0
    for _ in range(100):
        if high - low < arb((1, -ctx.prec // 2)):
            break
        middle = ((low * above - high * below) / (above - below)).mid()
        value = height(middle)
        if log10(value) < 1:
            return middle
        if value < 0:
            low, below = middle, value
            above = above / 2 if side < 0 else above
            side = -1
        else:
            high, above = middle, value
            below = below / 2 if side > 0 else below
            side = 1
    return low
