"""Square loss on the same model: the flow interpolates, and among the interpolating beta it finds a special one.

From u = alpha the limit is argmin sum_i q_D(beta_i / alpha^D) on X beta = y (Woodworth et al. 2020, arXiv 2002.09277).
As alpha falls it approaches the solution of least l1 norm, linearly in the initial size alpha^D of each half of beta
for D >= 3, and like (alpha^D)^(1 - rho) for D = 2, rho the least max |X^T lambda| off the support over the multipliers
of the l1 problem, which is a null-space constant of the data (Matt & Stoeger 2025, arXiv 2506.01143; their alpha is
the size of a half). Layers of different size, beta = u_+ v_+ - u_- v_-, change the potential only through u^2 + v^2,
so that an uneven shape acts like a larger scale (Azulay et al. 2021, arXiv 2102.09769).
"""

from collections.abc import Sequence
from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
import mpmath
import numpy as np
import xarray as xr
from jaxtyping import Array, Float
from mpmath import mp, mpf
from scipy.optimize import linprog

from ...clocks import TimeClock
from ...losses import Square
from ...solve import gradient_flow
from ..figures import COLOURS, MARKERS
from ..report import Claim, Part
from .problems import flows, ignore, relative, Report, SAVES

N, DIM = 4, 6


def regression(sparse: bool, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian samples, and targets that are Gaussian, or those of a teacher with two nonzero entries."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, DIM))
    teacher = np.array([1.0, -0.7, 0, 0, 0, 0]) if sparse else rng.normal(size=DIM)
    return X, X @ teacher


def least_potential(X: Any, y: Any, halves: Sequence[Any], depth: int, digits: int = 30) -> list[mpf]:
    """argmin sum_i a_i q_D(beta_i / a_i) on X beta = y, with a = `halves` (a_i = alpha_i^D), by mpmath.

    beta_i = a_i h_D((X^T lambda)_i), and Newton's method finds lambda, with a lowered from its largest by decades.

    !!! example

        ```python
        >>> from gflow.studies.diagonal.interpolation import least_potential
        >>> [round(float(b), 6) for b in least_potential([[1.0, 2.0]], [1.0], ["1e-9", "1e-9"], 3)]
        [0.0, 0.5]

        ```
    """
    return least_potentials(X, y, [halves], depth, [digits])[0]


def least_potentials(
    X: Any, y: Any, all_halves: Sequence[Sequence[Any]], depth: int, digits: Sequence[int]
) -> list[list[mpf]]:
    """`least_potential` for halves that fall from one to the next, each to its own digits."""
    found, dual, current = [], mp.matrix([0] * len(y)), mpf(1)
    for halves, wanted in zip(all_halves, digits, strict=True):
        smallest = min(mpf(a) for a in halves)
        # The Newton matrix has the condition of h'_D over its coordinates.
        lost = max(0, -int(mp.floor(mpmath.log10(smallest)))) * (2 if depth > 2 else 1)
        with mp.workdps(wanted + 20 + lost):
            rows, goal, a = mp.matrix(X), mp.matrix(y), [mpf(v) for v in halves]
            factor = max(mpf(1), current / smallest)
            while factor > 1:
                dual = _newton(rows, goal, [v * factor for v in a], depth, dual, 5)
                factor = max(mpf(1), factor / 1000)
            dual = _newton(rows, goal, a, depth, dual, wanted)
            w = rows.T * dual
            found.append([v * _h(w[i], depth)[0] for i, v in enumerate(a)])
        current = smallest
    return found


def _h(w: mpf, depth: int) -> tuple[mpf, mpf]:
    """h_D(w) and h_D'(w)."""
    if depth == 2:
        return 2 * mp.sinh(w), 2 * mp.cosh(w)
    p = mpf(depth) / (depth - 2)
    left, right = (1 - w) ** -p, (1 + w) ** -p
    return left - right, p * (left / (1 - w) + right / (1 + w))


def _newton(rows: Any, goal: Any, a: list, depth: int, dual: Any, digits: int) -> Any:
    size = max(abs(v) for v in goal)
    for _ in range(2000):
        w = rows.T * dual
        pairs = [_h(v, depth) for v in w]
        residual = rows * mp.matrix([v * pair[0] for v, pair in zip(a, pairs, strict=True)]) - goal
        slope = mp.matrix(rows.rows, rows.rows)
        for i, (v, pair) in enumerate(zip(a, pairs, strict=True)):
            column = rows[:, i]
            slope += (column * column.T) * (v * pair[1])
        move = mp.lu_solve(slope, -residual)
        turn, part = rows.T * move, mpf(1)
        for here, by in zip(w, turn, strict=True):
            # A step changes h' by a bounded factor, and stays between the poles.
            most = mpf(2) if depth == 2 else mpf("0.9") * (1 - abs(here))
            part = min(part, most / abs(by)) if by != 0 else part
        dual = dual + part * move
        if part == 1 and max(abs(v) for v in residual) < size * mpf(10) ** (-digits):
            return dual
    raise RuntimeError("Newton's method for the least potential did not converge.")


def least_l1(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """The solution of least l1 norm on X beta = y, and rho: the least max |X^T lambda| off its support over all
    multipliers, X^T lambda = sign(beta) on the support."""
    d = X.shape[1]
    answer = linprog(np.ones(2 * d), A_eq=np.hstack([X, -X]), b_eq=y, bounds=(0, None), method="highs-ds")
    beta = answer.x[:d] - answer.x[d:]
    on = np.abs(beta) > 1e-9 * np.abs(beta).max()
    beta[on], beta[~on] = np.linalg.lstsq(X[:, on], y, rcond=None)[0], 0.0
    off = X[:, ~on].T
    ones = np.ones((len(off), 1))
    bound = linprog(
        np.append(np.zeros(len(y)), 1.0),
        A_ub=np.vstack([np.hstack([off, -ones]), np.hstack([-off, -ones])]), b_ub=np.zeros(2 * len(off)),
        A_eq=np.hstack([X[:, on].T, np.zeros((on.sum(), 1))]), b_eq=np.sign(beta[on]), bounds=(None, None),
    )  # fmt: skip
    return beta, float(bound.x[-1])


def limits_of_square(quick: bool = False, report: Report = ignore) -> xr.Dataset:
    """The flow to a loss of 1e-18, the least potential, and the least l1 norm, for alpha down to 1e-60.

    **Returns:** over (set, depth, decade), alpha = 10^-decade: `flow`, the distance of the flow from the least
    potential, relative (NaN where there is none), and `log_to_l1`, log10 of the distance of that from the least l1
    norm; over set: `rho`.
    """
    depths, decades = (2, 3) if quick else (2, 3, 4), np.array([0, 1, 2, 5, 10, 20, 40, 60])
    sets = {"Gaussian targets": False} if quick else {"Gaussian targets": False, "sparse teacher": True}
    shape = (len(sets), len(depths), decades.size)
    gap, to_l1, rho = np.full(shape, np.nan), np.full(shape, np.nan), []
    for i, sparse in enumerate(sets.values()):
        X, y = regression(sparse)
        l1, constant = least_l1(X, y)
        sharp = _polished(X, y, l1)
        rho.append(constant)
        save = np.linspace(0.1 - np.log(np.mean(y**2) / 2), 18 * np.log(10), SAVES)
        for j, depth in enumerate(depths):
            halves = [[mpf(10) ** (-int(k) * depth)] * DIM for k in decades]
            best = least_potentials(X.tolist(), y.tolist(), halves, depth, [15 + int(k) * depth for k in decades])
            report((i + (j + 0.3) / len(depths)) / len(sets))
            for k, decade in enumerate(decades):
                # The flows of another depth are another program to compile.
                if depth == 2 or not quick:
                    run = flows(X, depth, [10.0**-decade], save, y=y, loss=Square(), rtol=1e-9)
                    gap[i, j, k] = relative(run.beta[0, -1], np.array([float(b) for b in best[k]]))
                with mp.workdps(600):
                    to_l1[i, j, k] = mpmath.log10(mp.norm([b - c for b, c in zip(best[k], sharp, strict=True)]))
                report((i + (j + 0.3 + 0.7 * (k + 1) / decades.size) / len(depths)) / len(sets))
    dims = ("set", "depth", "decade")
    return xr.Dataset(
        {"flow": (dims, gap), "log_to_l1": (dims, to_l1), "rho": ("set", rho)},
        coords={"set": list(sets), "depth": list(depths), "decade": decades},
    )


def _polished(X: np.ndarray, y: np.ndarray, beta: np.ndarray) -> list[mpf]:
    """The l1 solution to many digits, by its equations."""
    on = np.flatnonzero(beta)
    with mp.workdps(600):
        left, right = mp.matrix(X[:, on].tolist()), mp.matrix(y.tolist())
        values = mp.lu_solve(left.T * left, left.T * right)
        full = [mpf(0)] * beta.size
        for i, value in zip(on, values, strict=True):
            full[i] = value
    return full


def square_claims(ds: xr.Dataset) -> list[Claim]:
    text = "flows end at the least potential, alpha = 1 to 1e-60: relative distance"
    # NaN: depths that are not run, and flows that do not arrive.
    run = ds.flow.values[np.isfinite(ds.flow.values).any(-1)]
    there = np.isfinite(run)
    claims = [
        Claim.at_most(text, 1e-6, run[there]),
        Claim.at_least("flows that reach a loss of 1e-18, share", 1.0, there.mean()),
    ]
    for s in ds.set.values:
        rho = float(ds.rho.sel(set=s))
        for depth in ds.depth.values:
            one = ds.log_to_l1.sel(set=s, depth=depth, decade=slice(20, 60))
            rate = -np.diff(one.values) / (int(depth) * np.diff(one.decade.values))
            predicted = 1 - rho if depth == 2 else 1.0
            name = f"{s}, D = {depth}: distance to the least l1 norm, power of alpha^D"
            name += f", rho = {rho:.4f}" if depth == 2 else ""
            claims.append(Claim.close(name, predicted, rate, 0.02))
    return claims


def draw_square(ds: xr.Dataset) -> Any:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, ds.sizes["set"], figsize=(5 * ds.sizes["set"] + 0.5, 3.9), squeeze=False,
                                layout="constrained")  # fmt: skip
    for ax, s in zip(axes[0], ds.set.values, strict=True):
        for k, depth in enumerate(ds.depth.values):
            one = ds.log_to_l1.sel(set=s, depth=depth)
            x = -int(depth) * one.decade.values
            ax.plot(x, one, MARKERS[k], color=COLOURS[k], label=f"D = {depth}")
            power = 1 - float(ds.rho.sel(set=s)) if depth == 2 else 1.0
            ax.plot(x, one.values[-1] + power * (x - x[-1]), ":", color=COLOURS[k],
                    label="slope 1 − ρ" if depth == 2 else None)  # fmt: skip
        ax.set(xlabel=r"$\log_{10}\alpha^D$", ylabel=r"$\log_{10}$ distance to the least $\ell_1$ norm", title=str(s))
        ax.legend(fontsize=8)
    return figure


class TwoLayers(eqx.Module):
    """f(x) = (u_+ v_+ - u_- v_-) . x."""

    u: Float[Array, "2 d"]
    v: Float[Array, "2 d"]

    @property
    def beta(self) -> Float[Array, " d"]:
        return self.u[..., 0, :] * self.v[..., 0, :] - self.u[..., 1, :] * self.v[..., 1, :]

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return self.beta @ x


_DOPRI = diffrax.Dopri8()


def shapes(quick: bool = False, report: Report = ignore) -> xr.Dataset:
    """Layers u = a, v = b at equal product a b = 0.01: the limit, and the path of another pair with the same a^2 + b^2.

    **Returns:** over shape s, a/b = s: `flow`, the relative distance of the limit from the least potential with
    a_i = (a^2 + b^2) / 2; `l1`, the norm of the limit; `twin`, the distance from the path of a = b.
    """
    X, y = regression(False)
    ratios = np.array([1.0, 30.0, 300.0]) if quick else np.array([1.0, 3.0, 10.0, 30.0, 100.0, 300.0])
    times = np.append(np.geomspace(0.1, 10.0, 12), 400.0)
    table = []
    for k, ratio in enumerate(ratios):
        a, b = 0.1 * ratio**0.5, 0.1 / ratio**0.5
        even = ((a**2 + b**2) / 2) ** 0.5
        runs = [
            gradient_flow(
                TwoLayers(jnp.full((2, DIM), p), jnp.full((2, DIM), q)), X, y, loss=Square(), clock=TimeClock(),
                save=times, solver=_DOPRI, rtol=1e-10,
            ).model.beta
            for p, q in ((a, b), (even, even))
        ]  # fmt: skip
        exact = [float(v) for v in least_potential(X.tolist(), y.tolist(), [mpf(even) ** 2] * DIM, 2)]
        first, twin = (np.asarray(run) for run in runs)
        table.append((relative(first[-1], np.array(exact)), np.abs(first[-1]).sum(), relative(first, twin).max()))
        report((k + 1) / ratios.size)
    flow, norm, twin = np.array(table).T
    return xr.Dataset(
        {"flow": ("ratio", flow), "l1": ("ratio", norm), "twin": ("ratio", twin)},
        coords={"ratio": ratios},
        attrs={"least_l1": float(np.abs(least_l1(X, y)[0]).sum()), "l2_l1": float(np.abs(np.linalg.pinv(X) @ y).sum())},
    )


def shape_claims(ds: xr.Dataset) -> list[Claim]:
    return [
        Claim.at_most("u = a, v = b: distance of the limit from the least hyperbolic entropy of a^2 + b^2", 1e-6,
                      ds.flow.values),
        Claim.at_most("the whole path is that of u = v with the same a^2 + b^2: distance, relative", 1e-6,
                      ds.twin.values),
        Claim.at_least("an uneven shape at equal a b acts like a larger scale: rises of the l1 norm with a / b", 0.0,
                       np.diff(ds.l1.values)),
        Claim.close("a / b at its largest: l1 norm over that of the least l2 norm", 1.0,
                    float(ds.l1[-1]) / ds.attrs["l2_l1"], 0.05),
    ]  # fmt: skip


def draw_shapes(ds: xr.Dataset) -> Any:
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
    ax.semilogx(ds.ratio, ds.l1, MARKERS[0] + "-", color=COLOURS[0], label=r"limit of the flow, $ab=0.01$")
    for name, line, text in (("least_l1", "--", r"least $\ell_1$ norm"), ("l2_l1", ":", r"least $\ell_2$ norm")):
        ax.axhline(ds.attrs[name], color="0.3", ls=line, lw=1, label=text)
    ax.set(xlabel="$a/b$, sizes of the two layers", ylabel=r"$\ell_1$ norm of the limit")
    ax.legend(fontsize=8)
    return figure


PARTS = (
    Part("square-loss", "Square loss: interpolation at the least potential, and its distance to the least l1 norm",
         limits_of_square, square_claims, {"square-loss": draw_square}),
    Part("shape", "Layers of different size", shapes, shape_claims, {"shape": draw_shapes}),
)  # fmt: skip
