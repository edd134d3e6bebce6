"""Stage equations of the square loss, L = 1/(2N) sum_n (f_n - y_n)^2 (or without 1/N), in physical time.

The dual variables move by the scaled residuals, dz_n/dt = r_n = (y_n - m_n)/N, which are the unknowns V here, in units
of the largest one at the start of the step. While nothing has grown they are constant, so that a wait at a saddle is
one polynomial of low degree however long it is; the jump that ends it is resolved by steps that shrink towards it.
"""

from typing import Any

import numpy as np
from flint import arb, arb_mat, fmpq, fmpq_mat

from .classification import Relations
from .exact import LOG2_10, log10
from .matrix import Clock
from .network import DualNetwork
from .tableau import Tableau

_ZERO = arb(0)


class Residuals:
    """The square loss against `targets`; `mean` or sum."""

    exponential = False

    def __init__(self, network: DualNetwork, targets: list[fmpq], mean: bool):
        self.samples, self.targets = network.samples, targets
        self.count = network.samples if mean else 1
        self.y = [_ZERO] * self.samples
        self.unit = arb(1)

    def refresh(self) -> None:
        """Round the constants to the working precision."""
        self.y = [arb(v).mid() for v in self.targets]

    def velocity(self, r: list[arb]) -> list[arb]:
        """dz/dt"""
        return r

    def log_weights(self, margins: list[arb], gamma: arb) -> list[arb]:
        """r_n: what a state carries in place of log-weights."""
        return [(y - m) / self.count for y, m in zip(self.y, margins, strict=True)]

    def gamma(self, margins: list[arb]) -> arb:
        r = self.log_weights(margins, _ZERO)
        return -(sum((v * v for v in r), _ZERO) * self.count / 2).log()

    def rates(self, V: list[arb], clock: Clock) -> list[arb]:
        n = self.samples
        return [v * length * self.unit for j, length in enumerate(clock.lengths) for v in V[j * n : (j + 1) * n]]

    def relations(self, margins: list[arb], V: list[arb], E: list[arb], clock: Clock) -> Relations:
        n, stages = self.samples, len(V) // self.samples
        scale = 1 / (self.count * self.unit)
        implied = [(self.y[k % n] - m) * scale for k, m in enumerate(margins)]
        gamma = [self.gamma(margins[j * n : (j + 1) * n]).mid() for j in range(stages)]
        return Relations(implied, clock.pace, gamma, np.ones((stages, n)), np.ones((stages, n)))

    def store(self, V: list[arb], grid: Any) -> list[arb]:
        """The residuals themselves."""
        return [v * self.unit for v in V]

    def restore(self, values: list[arb], grid: Any) -> list[arb]:
        return [(v / self.unit).mid() for v in values]

    def linear(self, at: Relations, clock: Clock) -> tuple[np.ndarray, np.ndarray]:
        eye = np.broadcast_to(np.eye(self.samples), (len(clock.pace), self.samples, self.samples))
        return eye / self.count, eye

    def log_rates(self, V: list[arb], clock: Clock) -> np.ndarray:
        return np.repeat([float(p) for p in clock.pace], self.samples)

    # -- what a run asks for -------------------------------------------------------------------------------------------

    def begin(self, state: Any) -> float:
        """Set the unit of the residuals; the digits that y - m loses."""
        top = max(log10(v) for v in state.weights)
        self.unit = arb((1, int(top * LOG2_10)))
        return max(0.0, max(log10(v) for v in self.y) - top)

    def prefers_loss(self, run: Any, state: Any) -> bool:
        return False

    def slope(self, slopes: list[arb], push: list[arb], r: list[arb]) -> arb:
        """d gamma / dt"""
        loss = sum((v * v for v in r), _ZERO) * self.count / 2
        return sum((b * g * g for b, g in zip(slopes, push, strict=True)), _ZERO) / loss

    def first_length(self, run: Any, state: Any) -> float:
        """log of a step in t in which beta and the residuals keep their order of magnitude."""
        network = run.network
        push = (arb_mat(1, self.samples, state.weights) * network.X).entries()
        slopes = network.slopes(state.place)
        rooms = network.spread(state.place)
        lengths = [float((r / abs(g)).log()) for r, g in zip(rooms, push, strict=True) if log10(g) > -1e6]
        stiffness = sum((b * v * v for row in network.exact for b, v in zip(slopes, row, strict=True)), _ZERO)
        return min([*lengths, -float((stiffness / self.count).log())]) - 1.5

    def first_guess(self, run: Any, state: Any, grid: Any, tableau: Tableau) -> list[arb]:
        return [(r / self.unit).mid() for r in state.weights] * tableau.stages


def least_loss(rows: list[list[fmpq]], targets: list[fmpq], mean: bool) -> fmpq:
    """The minimum of the square loss over beta, exactly."""
    X = fmpq_mat([list(row) for row in rows])
    y = fmpq_mat([[v] for v in targets])
    XT = X.transpose()
    joined = [list(a) + list(b) for a, b in zip((XT * X).tolist(), (XT * y).tolist(), strict=True)]
    reduced, rank = fmpq_mat(joined).rref()
    beta = [fmpq(0)] * len(rows[0])
    for row in reduced.tolist()[:rank]:
        column = next(k for k, v in enumerate(row) if v != 0)
        if column < len(beta):
            beta[column] = row[-1]
    outputs = [sum((a * b for a, b in zip(row, beta, strict=True)), fmpq(0)) for row in rows]
    gaps = [f - t for f, t in zip(outputs, targets, strict=True)]
    return sum((g * g for g in gaps), fmpq(0)) / (2 * len(rows) if mean else 2)
