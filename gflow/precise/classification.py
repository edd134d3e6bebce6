"""Stage equations of the exponential and the logistic loss.

With gamma = -log L and d tau = L dt, the dual variables move by dz_n / d tau = e^(W_n), and the log-weights obey

    exponential:  m_n + W_n = gamma - log N,                        sum_n e^(W_n) = 1,
    logistic:     m_n + W_n - log(1 - a_n) = gamma - log N,         sum_n -log(1 - a_n) = N e^(-gamma),

a_n = N e^(W_n - gamma), which is the logistic function of -m_n (N = 1 for a loss that is a sum). The unknowns at a
stage are V_n = log dz_n / ds, s in [0, 1] along the step. On the loss clock gamma is known there and the pace
R = log d tau / ds = V_n - W_n follows from the second relation; on the time clock tau is known and gamma follows.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from flint import arb, arb_mat, ctx, fmpq

from .exact import LOG2_10, log10, rounding
from .matrix import Clock
from .network import DualNetwork

_ZERO = arb(0)


@dataclass(eq=False)
class Relations:
    """What V should be by the margins, log d tau / ds, gamma, and in float64 dR/dV (or the weights) and -dW/dm."""

    implied: list[arb]
    pace: list[arb]
    gamma: list[arb]
    weights: np.ndarray
    slopes: np.ndarray


class Margins:
    """The exponential (`logistic=False`) or logistic loss of N samples; `mean` or sum."""

    # Weights are exponentials: tiny ones do not matter, and physical time has to be integrated.
    exponential = True
    unit = arb(1)

    def __init__(self, network: DualNetwork, logistic: bool, mean: bool):
        self.samples, self.logistic = network.samples, logistic
        self.count = network.samples if mean else 1
        self.exponent = network.pole_exponent
        reach = max(sum(abs(v) for v in row) for row in network.exact)
        self.turn = max(network.scales) ** network.depth * reach
        self.log_count = self.offset = self.kappa = arb(0)

    def refresh(self) -> None:
        """Round the constants to the working precision."""
        self.log_count = arb(self.count).log().mid() if self.count > 1 else arb(0)
        self.offset = arb(self.turn).mid()
        self.kappa = arb(fmpq(self.exponent.numerator, self.exponent.denominator)).mid()

    def gamma(self, margins: list[arb]) -> arb:
        """-log L, with relative accuracy also near 0."""
        if self.logistic:
            losses = [_log1p_exp(-m) for m in margins]
            return self.log_count - sum(losses[1:], losses[0]).log()
        low = min(margins)
        if abs(low) < 1:
            total = sum(((-m).expm1() for m in margins), arb(0))
            if self.count > 1:
                return -(total / self.count).log1p()
            return -(total + self.samples).log() if self.samples > 1 else margins[0]
        terms = [(low - m).exp() for m in margins]
        return low + self.log_count - sum(terms[1:], terms[0]).log()

    def log_weights(self, margins: list[arb], gamma: arb) -> list[arb]:
        """W_n for margins with that gamma."""
        top = gamma - self.log_count
        if self.logistic:
            return [top - _log1p_exp(m) for m in margins]
        return [top - m for m in margins]

    def rates(self, V: list[arb], clock: Clock) -> list[arb]:
        """dz/ds = e^V, exactly 0 where that is below rounding beside the largest at its stage."""
        n, E, left_out = self.samples, [], set(clock.left_out)
        lowest = -rounding()
        for j in range(len(V) // n):
            row = V[j * n : (j + 1) * n]
            if left_out:
                top = max(v for k, v in enumerate(row) if k not in left_out) + lowest
                E += [v.exp() if v > top and k not in left_out else _ZERO for k, v in enumerate(row)]
            else:
                top = max(row) + lowest
                E += [v.exp() if v > top else _ZERO for v in row]
        return E

    def relations(self, margins: list[arb], V: list[arb], E: list[arb], clock: Clock) -> Relations:
        n, implied = self.samples, []
        if clock.on_loss and not self.logistic:
            # m + W = gamma - log N, and R = log sum e^V.
            totals = (arb_mat(len(clock.gamma), n, E) * arb_mat(n, 1, [1] * n)).entries()
            paces = [v.log().mid() for v in totals]
            tops = [g - self.log_count + r for g, r in zip(clock.gamma, paces, strict=True) for _ in range(n)]
            implied = [t - m for t, m in zip(tops, margins, strict=True)]
            W = [float(v - paces[k // n]) if E[k] != 0 else -math.inf for k, v in enumerate(V)]
            weights = np.exp(np.minimum(W, 1.0)).reshape(-1, n)
            return Relations(implied, paces, clock.gamma, weights, self._slopes(margins))
        if clock.on_loss:
            paces, weights = [], np.zeros((len(clock.gamma), n))
            for j, gamma in enumerate(clock.gamma):
                row = slice(j * n, (j + 1) * n)
                total, weights[j] = self.pace(E[row], gamma)
                pace = total.log().mid()
                paces.append(pace)
                implied += [w + pace for w in self.log_weights(margins[row], gamma)]
            return Relations(implied, paces, clock.gamma, weights, self._slopes(margins))
        gammas, logs = [], []
        for j, pace in enumerate(clock.pace):
            row = margins[j * n : (j + 1) * n]
            gammas.append(self.gamma(row).mid())
            W = self.log_weights(row, gammas[-1])
            logs += [float(w) for w in W]
            implied += [w + pace for w in W]
        weights = np.exp(np.minimum(np.array(logs).reshape(-1, n), 1.0))
        return Relations(implied, clock.pace, gammas, weights, self._slopes(margins))

    def linear(self, at: Relations, clock: Clock) -> tuple[np.ndarray | None, np.ndarray]:
        """P and D, per stage, of d residual = P dm + D dV, residual = V - implied."""
        eye = np.eye(self.samples)
        P = at.slopes[:, :, None] * eye
        if clock.on_loss:
            return P if self.logistic else None, eye - at.weights[:, None, :]
        return P - at.weights[:, None, :], np.broadcast_to(eye, P.shape)

    def log_rates(self, V: list[arb], clock: Clock) -> np.ndarray:
        """log |dE / dV|"""
        return np.array([float(v) for v in V])

    def begin(self, state: Any) -> float:
        """Nothing to set before a step, and no digits that the margins lose."""
        return 0.0

    def store(self, V: list[arb], grid: Any) -> list[arb]:
        """log |dz/dv|, which does not depend on the step."""
        return [v - grid.log_width for v in V]

    def restore(self, values: list[arb], grid: Any) -> list[arb]:
        return [(v + grid.log_width).mid() for v in values]

    # -- what a run asks for -------------------------------------------------------------------------------------------

    def velocity(self, W: list[arb]) -> list[arb]:
        """dz / d tau"""
        return [w.exp() for w in W]

    def slope(self, slopes: list[arb], push: list[arb], weights: list[arb]) -> arb:
        """d gamma / d tau = p^T K p, for push = X^T p."""
        return sum((b * g * g for b, g in zip(slopes, push, strict=True)), arb(0))

    def rate(self, run: Any, state: Any) -> arb:
        """d gamma / d tau at a state."""
        return self._rate(run, state)[0]

    def _rate(self, run: Any, state: Any) -> tuple[arb, list[arb]]:
        network = run.network
        push = (arb_mat(1, self.samples, self.velocity(state.weights)) * network.X).entries()
        return self.slope(network.slopes(state.place), push, state.weights), push

    def prefers_loss(self, run: Any, state: Any) -> bool:
        """Whether gamma, not tau, is the better clock: late, and unless the flow waits at a saddle."""
        if state.gamma < 1:
            return False
        slope, _ = self._rate(run, state)
        return bool(slope * state.tau > 0.5 * state.gamma)

    def first_length(self, run: Any, state: Any) -> float:
        """log of a step in tau in which neither beta nor gamma turns."""
        slope, push = self._rate(run, state)
        rooms = run.network.spread(state.place)
        lengths = [float((r / abs(g)).log()) for r, g in zip(rooms, push, strict=True) if log10(g) > -1e6 and g != 0]
        return min([*lengths, -float(slope.log())]) - 1.5

    def first_guess(self, run: Any, state: Any, grid: Any, tableau: Any) -> list[arb]:
        """Weights as they are, and the pace that goes with them."""
        clock = grid.clock(tableau.nodes)
        if not clock.on_loss:
            return [(w + rate).mid() for rate in clock.pace for w in state.weights]
        slope, _ = self._rate(run, state)
        return [((v / slope).log() + w).mid() for v in grid.speeds(clock, tableau.nodes) for w in state.weights]

    def pace(self, rates: list[arb], gamma: arb) -> tuple[arb, list[float]]:
        """e^R and dR / dV_n."""
        total = sum(rates[1:], rates[0])
        if self.logistic:
            small = self.count * (-gamma).exp()
            if log10(small) * LOG2_10 > -ctx.prec - 10:
                return self._logistic_pace(rates, total, small)
        return total, [float(v / total) for v in rates]

    def _logistic_pace(self, rates: list[arb], total: arb, small: arb) -> tuple[arb, list[float]]:
        """sum_n -log(1 - small v_n / rho) = small, by Newton's method in log rho, from where it is convex."""
        lowest = max(rates) * small
        rho, done = total.max(lowest * arb("1.00001")).mid(), False
        while True:
            shares = [small * v / rho for v in rates]
            tilts = [a / (1 - a) for a in shares]
            slope = sum(tilts[1:], tilts[0])
            if done:
                return rho, [float(t / slope) for t in tilts]
            step = (-sum(((-a).log1p() for a in shares), small) / slope).mid()
            done = log10(step) * LOG2_10 < -0.55 * ctx.prec
            moved = (rho * step.exp()).mid()
            rho = moved if moved > lowest else ((rho + lowest) / 2).mid()

    def _slopes(self, margins: list[arb]) -> np.ndarray:
        """-dW_n / dm_n at fixed gamma: 1, or the logistic function of m_n."""
        n = self.samples
        if not self.logistic:
            return np.ones((len(margins) // n, n))
        values = np.array([min(max(float(m), -700.0), 700.0) for m in margins])
        return (1 / (1 + np.exp(-values))).reshape(-1, n)


def _log1p_exp(m: arb) -> arb:
    """log(1 + e^m)"""
    return m + (-m).exp().log1p() if m > 0 else m.exp().log1p()
