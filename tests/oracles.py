"""Answers that share no code with gflow: closed forms in mpmath, and SciPy on equations written out here.

The networks are beta = u_+^D - u_-^D from u_+ = u_- = alpha. With z = integral of X^T c dt, where c_n = -dL/df_n,

    D = 2:  beta = 2 alpha^2 sinh(4 z),      D > 2:  u_+-^(2-D) = alpha^(2-D) -+ D (D-2) z.
"""

import itertools
import json
from fractions import Fraction
from pathlib import Path

import mpmath as mp
import numpy as np
from scipy.integrate import DOP853, solve_ivp
from scipy.special import log_expit, logsumexp, softmax


def separable(seed, n, d):
    """Random separable data, labels absorbed in the rows."""
    rng = np.random.default_rng(seed)
    X, b = rng.normal(size=(n, d)), rng.normal(size=d)
    return X * np.sign(X @ b)[:, None]


def reference():
    """The problems of data/dual-flow.json (its readme says what they are), read into floats and mpmath numbers."""
    problems = json.loads((Path(__file__).parent / "data" / "dual-flow.json").read_text())["problems"]
    for problem in problems:
        problem["X"] = np.array([[float(Fraction(v)) for v in row] for row in problem["X"]])
        problem["alpha"] = float(Fraction(problem["alpha"]))
    return {problem["id"]: problem for problem in problems}


class OneSample:
    """The flow on one sample x (label +1, or target `y` of the square loss), in 50 digits.

    Everything is explicit in nu = integral of c dt, z = nu x. The parameter here is L, with 4 nu max|x| = L for D = 2
    and 1 - e^-L = D (D-2) alpha^(D-2) nu max|x| for D > 2, which keeps the digits beside the pole.
    """

    def __init__(self, x, depth, scale, loss="exponential", y=1.0):
        self.x, self.depth, self.loss = [mp.mpf(float(v)) for v in x], depth, loss
        self.scale, self.y, self.top = mp.mpf(float(scale)), mp.mpf(y), max(abs(mp.mpf(float(v))) for v in x)

    def beta(self, L):
        power, out = mp.mpf(self.depth) / (self.depth - 2) if self.depth > 2 else None, []
        for v in self.x:
            r = abs(v) / self.top
            if self.depth == 2:
                value = 2 * mp.sinh(r * L)
            else:
                w = -r * mp.expm1(-L)
                value = (mp.exp(-L) if r == 1 else 1 - w) ** -power - (1 + w) ** -power
            out.append(mp.sign(v) * self.scale**self.depth * value)
        return out

    def output(self, L):
        return mp.fdot(self.x, self.beta(L))

    def margin(self, gamma):
        gamma = mp.mpf(float(gamma))
        if self.loss == "exponential":
            return gamma
        if self.loss == "logistic":
            return -mp.log(mp.expm1(mp.exp(-gamma)))
        return self.y - mp.sqrt(2 * mp.exp(-gamma))

    def neg_log_loss(self, f):
        if self.loss == "exponential":
            return f
        if self.loss == "logistic":
            return -mp.log(mp.log1p(mp.exp(-f)))
        return mp.log(2) - 2 * mp.log(abs(self.y - f))

    def slowness(self, f):
        """dt / dnu = 1 / |l'(f)|."""
        if self.loss == "exponential":
            return mp.exp(f)
        if self.loss == "logistic":
            return 1 + mp.exp(f)
        return 1 / (self.y - f)

    def parameter(self, f, rough=False):
        """log L at which the output is f; roughly, where it only divides an interval."""
        with mp.workdps(50):
            error = lambda q: mp.log(self.output(mp.exp(q))) - mp.log(f)
            low, high = mp.mpf(-200), mp.mpf(8)
            for _ in range(36 if rough else 30):
                middle = (low + high) / 2
                low, high = (middle, high) if error(middle) < 0 else (low, middle)
            return low if rough else mp.findroot(error, (low, high), solver="anderson", tol=1e-56)

    def at(self, gamma):
        """beta where -log L = gamma."""
        with mp.workdps(50):
            return self.beta(mp.exp(self.parameter(self.margin(gamma))))

    def log_time(self, gamma):
        """log t = log of the integral of dnu / |l'|, by Gauss-Legendre quadrature in log L."""
        with mp.workdps(50):
            f = self.margin(gamma)
            end = self.parameter(f)

            def integrand(q):
                L = mp.exp(q)
                if self.depth == 2:
                    rate = L / (4 * self.top)
                else:
                    rate = L * mp.exp(-L) / (self.depth * (self.depth - 2) * self.scale ** (self.depth - 2) * self.top)
                return self.slowness(self.output(L)) * rate

            if self.loss == "square":
                outputs = [self.y * (1 - mp.mpf(2) ** -k) for k in range(1, 60)]
                outputs += [self.y * mp.mpf(2) ** -k for k in range(2, 80, 3)]
            else:
                outputs = [mp.mpf(2) ** k for k in range(13)] + [mp.mpf(2) ** (-2 * k) for k in range(1, 40)]
                outputs += [f - k for k in (60, 40, 30, 20, 15, 11, 8, 6, 4, 3, 2, 1, 0.5)]
            breaks = [self.parameter(v, rough=True) for v in outputs if 0 < v < f]
            breaks = [b for b in breaks if b < end]
            first = min([end, mp.mpf(0), *breaks]) - 60
            breaks = sorted([first, end, *breaks, *(first + 2 * k for k in range(200) if first + 2 * k < end)])
            with mp.workdps(25):
                total = mp.fsum(
                    mp.quad(integrand, [a, b], method="gauss-legendre", maxdegree=5)
                    for a, b in itertools.pairwise(breaks)
                )
            return mp.log(total)


def _loss(name, f, y):
    """-log L (mean) and its derivative in the outputs."""
    if name == "exponential":
        return np.log(len(f)) - logsumexp(-y * f), y * softmax(-y * f)
    if name == "logistic":
        log_l = np.log(-log_expit(y * f))
        log_l = np.where(y * f > 30, -y * f, log_l)
        total = logsumexp(log_l)
        return np.log(len(f)) - total, y * np.exp(log_expit(-y * f) - total)
    r = f - y
    return np.log(2 * len(f)) - np.log(np.sum(r**2)), -2 * r / np.sum(r**2)


def scipy_path(X, y, loss, depth, scale, gammas, rtol=1e-13):
    """beta and log t where -log L = gammas, for the diagonal network, by DOP853.

    The state is (log u_+ / alpha, log u_- / alpha, t L). Steps are taken in a variable in which log u has speed one,
    and from past each gamma back to it with gamma itself as the variable, so that nothing is interpolated.
    """
    X, y = np.asarray(X, float), np.asarray(y, float)
    log_scale = np.log(scale)

    def look(a):
        plus, minus = a[: X.shape[1]], a[X.shape[1] :]
        half = depth * (plus - minus) / 2
        beta = 2 * np.exp(depth * (log_scale + (plus + minus) / 2)) * np.sinh(half)
        return beta, *_loss(loss, X @ beta, y)

    def rates(state):
        """d(log u) / d tau, d gamma / d tau"""
        a = state[:-1]
        push = X.T @ look(a)[2]
        push = depth * np.concatenate([push, -push])
        logs = log_scale + a
        return push * np.exp((depth - 2) * logs), np.sum(push**2 * np.exp((2 * depth - 2) * logs))

    def along_path(s, state):
        v, slope = rates(state)
        speed = np.max(np.abs(v))
        return np.append(v / speed, (1 - state[-1] * slope) / speed)

    def along_gamma(g, state):
        v, slope = rates(state)
        return np.append(v / slope, 1 / slope - state[-1])

    atol = 1e-15 * min(1.0, scale**-depth)
    start = np.zeros(2 * X.shape[1] + 1)
    atols = np.append(np.full(2 * X.shape[1], atol), 1e-300)
    solver = DOP853(along_path, 0.0, start, np.inf, rtol=rtol, atol=atols, first_step=1e-3 * min(1.0, scale**-depth))
    betas, log_times = [], []
    for gamma in gammas:
        while look(solver.y[:-1])[1] < gamma:
            solver.step()
        here = look(solver.y[:-1])[1]
        back = solve_ivp(along_gamma, (here, gamma), solver.y, method="DOP853", rtol=rtol, atol=atols)
        state = back.y[:, -1]
        betas.append(look(state[:-1])[0])
        log_times.append(np.log(state[-1]) + gamma)
    return np.array(betas), np.array(log_times)


def raw_path(X, y, loss, depth, scale, times):
    """u_+ and u_- (S, 2, d) at `times`, from du/dt = -grad L (mean) as it stands, by SciPy's DOP853."""
    d = X.shape[1]

    def field(t, u):
        f = X @ (u[:d] ** depth - u[d:] ** depth)
        g, c = _loss(loss, f, y)
        push = X.T @ (np.exp(-g) * c)
        return np.concatenate([depth * u[:d] ** (depth - 1) * push, -depth * u[d:] ** (depth - 1) * push])

    start = np.full(2 * d, float(scale))
    run = solve_ivp(field, (0, times[-1]), start, "DOP853", t_eval=times, rtol=3e-14, atol=1e-16 * scale)
    return run.y.T.reshape(len(times), 2, d)
