"""One solution of dtheta/dt = -grad L(theta) by Radau IIA collocation, for `gflow.precise.flow`.

Order and step follow the digits asked for; the stage equations F_j = -dt grad L(theta_0 + sum_i A_ji F_i) are solved by
Newton's method with residuals at working precision and a float64 matrix in coordinates that are scaled to 1.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from flint import arb, arb_mat, ctx
from mpmath import mp, mpf
from scipy.linalg import lu_factor, lu_solve

from .derivatives import gradient, hessian
from .exact import from_mpf, LOG2_10, log10, to_mpf
from .tableau import legendre, radau, Tableau


class Run:
    """One solution."""

    def __init__(
        self, loss: Callable, start: list, kind: str, digits: float, extra: int, relative: bool, max_steps: int,
        report: Callable,
    ):  # fmt: skip
        self.loss, self.kind, self.relative, self.max_steps = loss, kind, relative, max_steps
        self.carried, self.tolerance = digits + 10, digits + 2
        self.order = max(8, round(8 + 0.7 * digits)) + extra
        self.bits = int(LOG2_10 * (self.carried + 4)) + 20
        ctx.prec = self.bits
        self.tableau: Tableau = radau(self.order, self.bits)
        self.theta, self.t = [arb(v).mid() for v in start], arb(0)
        self.saves: list[dict[str, list[arb]]] = []
        self.counts = {"steps": 0, "rejections": 0, "newton": 0, "bits": self.bits}
        self.previous: tuple[arb, arb, list[list[arb]]] | None = None
        self.report = report

    def solve(self, points: list[Callable[[], arb]]) -> str:
        """An empty string, or what went wrong."""
        ctx.prec = self.bits
        length = None
        try:
            with mp.workdps(int(self.carried) + 5):
                pending = 0
                while pending < len(points):
                    if self.counts["steps"] + self.counts["rejections"] >= self.max_steps:
                        return "The run used up max_steps"
                    answer = self._step(length)
                    if answer is None:
                        return "The steps shrank to nothing, as they do where the flow comes to rest before the stop"
                    F, taken, length = answer
                    after = self._end(F)
                    place = self._place(after, self.t + taken)
                    while pending < len(points) and (target := points[pending]()) <= place:
                        self._save(F, taken, target)
                        pending += 1
                    self.previous = (self.t, taken, self._coefficients(F))
                    self.theta, self.t = after, (self.t + taken).mid()
                    self.report(place)
        except KeyboardInterrupt:
            return "The run was interrupted"
        return ""

    def _place(self, theta: list[arb], t: arb) -> arb:
        if self.kind == "time":
            return t
        if self.kind == "logtime":
            return t.log1p()
        return -from_mpf(mpf(self.loss(self._mp(theta)))).log()

    def _mp(self, theta: list[arb]) -> list[mpf]:
        return [to_mpf(v, mp.dps) for v in theta]

    def _end(self, F: list[list[arb]]) -> list[arb]:
        row = arb_mat([self.tableau.integrals.tolist()[-1]]) * arb_mat(F)
        return [(a + b).mid() for a, b in zip(self.theta, row.entries(), strict=True)]

    def _step(self, length: arb | None) -> tuple[list[list[arb]], arb, arb] | None:
        """F at the stages of an accepted step, its length, and the length to try next."""
        if length is None:
            x = self._mp(self.theta)
            g = gradient(self.loss, x, scales_of(x))
            rates = [abs(a) / s for a, s in zip(g, scales_of(x), strict=True) if a != 0]
            if not rates:
                return None
            length = from_mpf(mpf("0.1") / max(rates))
        for _ in range(300):
            F, error = self._collocate(length), math.inf
            if F is not None:
                error = self._error(F) + self.tolerance
                if error < 0.5:
                    self.counts["steps"] += 1
                    factor = min(10.0 ** ((-error - 0.3) / (self.order - 0.5)), 3.0)
                    return F, length, (length * arb(max(factor, 0.3))).mid()
            self.counts["rejections"] += 1
            factor = 0.3 if F is None else min(max(10.0 ** ((-error - 0.3) / (self.order - 0.5)), 0.1), 0.7)
            length = (length * arb(factor)).mid()
            if self.t > 0 and length < self.t * arb((1, -self.bits + 20)):
                return None
        return None

    def _error(self, F: list[list[arb]]) -> float:
        """log10 of the last Legendre coefficients, relative to each coordinate (or to the largest)."""
        s = self.order
        last = (arb_mat(self.tableau.coefficients.tolist()[s - 2 :]) * arb_mat(F)).tolist()
        after = self._end(F)
        sizes = [max(min(log10(a), log10(b)), -1e8) for a, b in zip(self.theta, after, strict=True)]
        if not self.relative:
            sizes = [max(sizes)] * len(sizes)
        sizes = [max(log10(a), log10(b)) if v <= -1e8 else v for a, b, v in zip(self.theta, after, sizes, strict=True)]
        tails = [max(log10(a) - 1, log10(b)) for a, b in zip(*last, strict=True)]
        return max((t - v for t, v in zip(tails, sizes, strict=True) if t > -1e8), default=-math.inf)

    def _coefficients(self, F: list[list[arb]]) -> list[list[arb]]:
        return (self.tableau.coefficients * arb_mat(F)).mid().tolist()

    def _guess(self, length: arb) -> list[list[arb]]:
        s = self.order
        if self.previous is None:
            x = self._mp(self.theta)
            g = gradient(self.loss, x, scales_of(x))
            return [[-length * from_mpf(v) for v in g] for _ in range(s)]
        start, taken, table = self.previous
        ratio = length / taken
        positions = [2 * ((self.t - start + c * length) / taken) - 1 for c in self.tableau.nodes]
        reach = abs(float(positions[-1]))
        growth = [1.0]
        for _ in range(1, s):
            growth.append(min(growth[-1] * (reach + math.sqrt(max(reach * reach - 1, 0.0))), 1e290))
        terms = [max(log10(v) for v in row) + math.log10(g) for row, g in zip(table, growth, strict=True)]
        degree = min(range(s), key=lambda k: (max(terms[k], terms[k - 1] if k else terms[k]), k))
        rows = arb_mat([legendre(max(degree, 1), p)[: degree + 1] for p in positions])
        return (rows * arb_mat(table[: degree + 1]) * ratio).mid().tolist()

    def _collocate(self, length: arb, guess: list[list[arb]] | None = None) -> list[list[arb]] | None:
        """Newton's method for F_j = -length grad L(theta_j)."""
        P = len(self.theta)
        F = guess if guess is not None else self._guess(length)
        factors, scales, previous = None, [], math.inf
        goal = -self.carried + 3
        for iteration in range(60):
            self.counts["newton"] += 1
            moved = (self.tableau.integrals * arb_mat(F)).tolist()
            stages = [[(a + b).mid() for a, b in zip(self.theta, row, strict=True)] for row in moved]
            try:
                points = [self._mp(row) for row in stages]
                if factors is None:
                    scales = scales_of([max((p[i] for p in points), key=abs) for i in range(P)])
                slopes = [gradient(self.loss, p, scales) for p in points]
                if factors is None or previous > -4.0:
                    factors = self._matrix(points, scales, length)
            except (ValueError, OverflowError, ZeroDivisionError):
                return None
            arbs = [from_mpf(v) for v in scales]
            gap = [[(f + length * from_mpf(g)) / a for f, g, a in zip(row, line, arbs, strict=True)]
                   for row, line in zip(F, slopes, strict=True)]  # fmt: skip
            top = max(log10(v) for row in gap for v in row)
            if top == -math.inf:
                return F
            unit = arb(10) ** int(top)
            step = lu_solve(factors, np.array([float(v / unit) for row in gap for v in row]), check_finite=False)
            if not np.all(np.isfinite(step)) or top > 6:
                return None
            size = math.log10(max(float(np.max(np.abs(step))), 1e-300)) + int(top)
            F = [[(f - arb(float(step[j * P + i])) * unit * arbs[i]).mid() for i, f in enumerate(row)]
                 for j, row in enumerate(F)]  # fmt: skip
            gain = size - previous
            if size < goal or (gain < -3.0 and size + max(gain, -10.0) < goal):
                return F
            if gain > -0.2 and previous < math.inf and size > -2.0 and iteration > 6:
                return None
            previous = size
        return None

    def _matrix(self, points: list[list[mpf]], scales: list[mpf], length: arb) -> Any:
        """LU factors of 1 + length H A in scaled coordinates."""
        s, P = self.order, len(scales)
        dt = to_mpf(length, 20)
        blocks = np.empty((s, P, P))
        for j, x in enumerate(points):
            H = hessian(self.loss, x, scales)
            blocks[j] = [[float(dt * H[a][b] * scales[b] / scales[a]) for b in range(P)] for a in range(P)]
        J = self.tableau.integrals_float[:, None, :, None] * blocks[:, :, None, :]
        return lu_factor(J.reshape(s * P, s * P) + np.eye(s * P), check_finite=False)

    def _save(self, F: list[list[arb]], taken: arb, target: arb) -> None:
        """The state where the clock shows `target`, by a shorter step from where this one starts."""
        share = arb(1)
        if self.kind == "time":
            share = ((target - self.t) / taken).mid()
        elif self.kind == "logtime":
            share = ((target.expm1() - self.t) / taken).mid()
        else:
            share = self._share(F, taken, target)
        part, theta = F, self._end(F)
        for _ in range(60):
            if share < 1:
                series = self.tableau.coefficients * arb_mat(F) * share
                values = self.tableau.evaluate(series, [share * c for c in self.tableau.nodes])
                part = self._collocate((taken * share).mid(), arb_mat(self.order, len(self.theta), values).tolist())
                if part is None:
                    raise ArithmeticError("a shorter step did not converge")
                theta = self._end(part)
            if self.kind != "loss":
                break
            # d(-log L)/dt = |grad L|^2 / L
            x = self._mp(theta)
            value = from_mpf(mpf(self.loss(x)))
            slope = sum((from_mpf(g) ** 2 for g in gradient(self.loss, x, scales_of(x))), arb(0)) / value
            late = ((target + value.log()) / slope / taken).mid()
            if log10(late) < -self.carried + 4:
                break
            share = (share + late).min(arb(1)).mid()
        t = (self.t + taken * share).mid()
        value = from_mpf(mpf(self.loss(self._mp(theta))))
        self.saves.append({"theta": theta, "time": [t], "log_time": [t.log().mid()], "loss": [value]})

    def _share(self, F: list[list[arb]], taken: arb, target: arb) -> arb:
        """Bisection for the loss on the collocation polynomial."""
        low, high = arb(0), arb(1)
        moved = arb_mat([[arb(0)] * len(self.theta), *(self.tableau.integrals * arb_mat(F)).tolist()])
        nodes = [arb(0), *self.tableau.nodes]
        for _ in range(40):
            middle = ((low + high) / 2).mid()
            k = max(j for j, c in enumerate(nodes) if c <= middle)
            k = min(k, len(nodes) - 2)
            part = (middle - nodes[k]) / (nodes[k + 1] - nodes[k])
            theta = [a + (1 - part) * moved[k, i] + part * moved[k + 1, i] for i, a in enumerate(self.theta)]
            low, high = (middle, high) if self._place(theta, self.t) < target else (low, middle)
        return low


def scales_of(x: list[mpf]) -> list[mpf]:
    top = max(abs(v) for v in x) or mpf(1)
    return [abs(v) or top for v in x]
