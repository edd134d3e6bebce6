"""The precise backend against mpmath.odefun, heyoka and SciPy, in one run on one problem.

    JAX_ENABLE_X64=1 python benchmarks/precise.py [--quick] [--part peers|targets]

The problem: depth 2, scale 1, exponential loss (mean), N = 3, d = 6, from -log L = 0 to gamma. The peers integrate the
same dual variables with gamma as the independent variable, dz/dgamma = p / (p^T K p); the digits asked for are their
tolerance. They are not verified; gflow's times include the second solution. A peer that has not answered within LIMIT
seconds is left out from there on. Results go to benchmarks/results/precise.md and precise.json.
"""

import argparse
import functools
import json
import platform
import signal
import time
from pathlib import Path

import mpmath
import numpy as np
from mpmath import mp, mpf
from scipy.integrate import solve_ivp

from gflow import precise

X = [["1/2", "1", "-3/8", "1/4", "5/8", "-1/8"], ["-1/4", "7/8", "1", "3/8", "-1/2", "3/4"],
     ["9/8", "-3/8", "1/2", "-5/8", "1/4", "1"]]  # fmt: skip
# Samples leave the support and come back, the last time at 8e8.
KINKS = [["-3/2", "-1/8", "-1/4", "-7/8", "-1/2", "-3/2"], ["9/8", "-7/8", "-1/8", "-5/4", "-5/4", "-7/8"],
         ["-1/2", "-1/2", "1/8", "-1/2", "-15/8", "-11/8"]]  # fmt: skip
TIES = [[1, 1, -1, 1, 1, -1], [1, -1, 1, 1, -1, -1], [1, 1, 1, -1, 1, 1]]
GAMMAS = ("5", "230", "1e4", "1e6")
DIGITS = (30, 50, 100, 300)
LIMIT = 25
RESULTS = Path(__file__).parent / "results"


class TooLong(Exception):
    pass


def limited(run, seconds=LIMIT):
    """CPU seconds that `run()` takes and what it returns, or None for both."""

    def alarm(*_):
        raise TooLong

    signal.signal(signal.SIGALRM, alarm)
    signal.alarm(seconds)
    began = time.process_time()
    try:
        value = run()
        return time.process_time() - began, value
    except TooLong:
        return None, None
    finally:
        signal.alarm(0)


def numbers(convert):
    split = lambda v: (v + "/1").split("/")[:2]
    return [[convert(split(v)[0]) / convert(split(v)[1]) for v in row] for row in X]


def gflow_run(data, gamma, digits, depth=2, scale=1):
    return precise.diagonal_flow(data, [1] * len(data), depth=depth, scale=scale, stop=gamma, digits=digits)


def by_odefun(gamma, digits):
    with mp.workdps(digits + 10):
        rows = numbers(mpf)

        def field(g, z):
            x = [mpmath.fdot(column, z) for column in zip(*rows, strict=True)]
            beta, slope = [2 * mpmath.sinh(4 * v) for v in x], [8 * mpmath.cosh(4 * v) for v in x]
            m = [mpmath.fdot(row, beta) for row in rows]
            e = [mpmath.exp(m[0] - v) for v in m]
            e = [v / mpmath.fsum(e) for v in e]
            push = [mpmath.fdot(column, e) for column in zip(*rows, strict=True)]
            S = mpmath.fsum(s * p * p for s, p in zip(slope, push, strict=True))
            return [v / S for v in e]

        return mpmath.odefun(field, 0, [mpf(0)] * 3, tol=mpf(10) ** -digits)(mpf(gamma))


class ByHeyoka:
    """heyoka's Taylor integrator on real numbers of the same precision; compilation apart."""

    def __init__(self, digits):
        import heyoka

        bits = int(digits * 3.33) + 40
        real = lambda v: heyoka.real(str(v), bits)
        z, rows = heyoka.make_vars("z0", "z1", "z2"), numbers(lambda v: int(v))
        x = [sum(real(rows[n][i]) * z[n] for n in range(3)) for i in range(6)]
        up = [heyoka.exp(real(4) * v) for v in x]
        beta = [u - real(1) / u for u in up]
        slope = [real(4) * (u + real(1) / u) for u in up]
        m = [sum(real(rows[n][i]) * beta[i] for i in range(6)) for n in range(3)]
        e = [heyoka.exp(m[0] - v) for v in m]
        total = e[0] + e[1] + e[2]
        e = [v / total for v in e]
        push = [sum(real(rows[n][i]) * e[n] for n in range(3)) for i in range(6)]
        S = sum(slope[i] * push[i] * push[i] for i in range(6))
        began = time.perf_counter()
        self.integrator = heyoka.taylor_adaptive(
            [(z[n], e[n] / S) for n in range(3)], [real(0)] * 3, fp_type=heyoka.real, prec=bits,
            tol=heyoka.real(f"1e-{digits}", bits), compact_mode=True,
        )  # fmt: skip
        self.compilation = time.perf_counter() - began
        self.real = real

    def __call__(self, gamma):
        # Stops every 200 steps, so that the time limit is heard.
        target = self.real(gamma)
        while self.integrator.time < target:
            self.integrator.propagate_until(target, max_steps=200)
        return [mpf(str(v)) for v in self.integrator.state]


def by_scipy(gamma):
    rows = np.array(numbers(float))

    def field(g, z):
        x = rows.T @ z
        e = np.exp(-rows @ (2 * np.sinh(4 * x)))
        e = e / np.sum(e)
        return e / np.sum(8 * np.cosh(4 * x) * (rows.T @ e) ** 2)

    answer = solve_ivp(field, (0, float(gamma)), np.zeros(3), "Radau", rtol=1e-10, atol=1e-14)
    if not answer.success:
        raise ArithmeticError(answer.message)
    return list(answer.y[:, -1])


def agreement(z, truth):
    worst = max(abs(a / b - 1) for a, b in zip(z, truth, strict=True))
    return int(-mpmath.log10(worst + mpf(10) ** -400))


def peers(quick):
    table = []
    alive = {"odefun": True}
    for digits in DIGITS[:2] if quick else DIGITS:
        integrator = ByHeyoka(digits)
        heyoka = True
        for gamma in GAMMAS:
            row = {"digits": digits, "gamma": gamma}
            with mp.workdps(digits + 10):
                row["gflow"], run = limited(lambda g=gamma, d=digits: gflow_run(X, g, d), 300)
                row["verified"] = run.digits
                if heyoka:
                    row["heyoka"], z = limited(functools.partial(integrator, gamma))
                    heyoka = row["heyoka"] is not None
                    if heyoka:
                        row["heyoka digits"] = agreement(z, run.dual[0])
                if alive["odefun"] and gamma == "5" and digits <= 50:
                    row["odefun"], z = limited(lambda g=gamma, d=digits: by_odefun(g, d), 3 * LIMIT)
                    alive["odefun"] = row["odefun"] is not None
                    if z is not None:
                        row["odefun digits"] = agreement(z, run.dual[0])
                if digits == DIGITS[0]:
                    try:
                        row["scipy"], z = limited(lambda g=gamma: by_scipy(g), 20)
                        if z is not None:
                            row["scipy digits"] = agreement([mpf(float(v)) for v in z], run.dual[0])
                    except (ArithmeticError, ValueError, FloatingPointError):
                        row["scipy"] = None
            row["heyoka compilation"] = integrator.compilation
            print(row, flush=True)
            table.append(row)
    return table


def targets():
    """The figures that gflow.precise is held to, verification included."""
    out = []
    for name, data in (("no kinks", X), ("samples leave and return", KINKS), ("ties", TIES)):
        for depth in (2, 3):
            for digits, gamma in ((50, "230"), (30, "1e100"), (50, "1e100"), (50, "1e1000")):
                took, run = limited(lambda d=data, g=gamma, k=digits, D=depth: gflow_run(d, g, k, D), 300)
                steps = [r["steps"] + r["rejections"] for r in run.stats["runs"]] if run else None
                wall, verified = (run.stats["seconds"], run.digits) if run else (None, None)
                out.append({"data": name, "depth": depth, "digits": digits, "gamma": gamma, "seconds": took,
                            "wall": wall, "verified": verified, "steps": steps})  # fmt: skip
                print(out[-1], flush=True)
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(30, 100)).round(3)
    labels = np.sign(wide @ rng.normal(size=100)).astype(int)
    took, run = limited(
        lambda: precise.diagonal_flow([[str(v) for v in row] for row in wide], labels, stop="1e6", digits=30), 120
    )
    out.append({"data": "N = 30, d = 100", "depth": 2, "digits": 30, "gamma": "1e6", "seconds": took,
                "verified": run.digits if run else None, "steps": None})  # fmt: skip
    print(out[-1], flush=True)
    return out


def markdown(table, held):
    show = lambda v: "" if v is None else f"{v:.2g}" if v < 100 else f"{v:.0f}"
    lines = [
        "# Precise backend", "",
        "Command: `JAX_ENABLE_X64=1 python benchmarks/precise.py`; CPU seconds on 2 CPU cores (one thread), Python "
        f"{platform.python_version()}.", "",
        "D = 2, scale 1, N = 3, d = 6, no kinks. gflow: two solutions and the comparison.", "",
        "| digits | gamma | gflow | verified | heyoka (digits right) | odefun (digits right) | SciPy Radau (digits) |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in table:
        pair = lambda name, row=row: (
            "" if name not in row else "none" if row[name] is None else f"{show(row[name])} ({row[name + ' digits']})"
        )
        lines.append(
            f"| {row['digits']} | {row['gamma']} | {show(row['gflow'])} | {row['verified']} | {pair('heyoka')} "
            f"| {pair('odefun')} | {pair('scipy')} |"
        )
    compiled = [f"{show(r['heyoka compilation'])} s for {r['digits']} digits" for r in table if r["gamma"] == "5"]
    lines += [
        "", f"heyoka's compilation is not counted: {', '.join(compiled)}. An entry is missing where a shorter run took "
        f"more than {LIMIT} s, and none where this one did.", "",
        "| data | D | digits | gamma | seconds | verified | steps tried |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in held:
        steps = " + ".join(map(str, row["steps"])) if row["steps"] else ""
        lines.append(f"| {row['data']} | {row['depth']} | {row['digits']} | {row['gamma']} | {show(row['seconds'])} "
                     f"| {row['verified']} | {steps} |")  # fmt: skip
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="30 and 50 digits only")
    parser.add_argument("--part", choices=("targets", "peers", "all"), default="all")
    chosen = parser.parse_args()
    gflow_run(X, "5", 20)
    RESULTS.mkdir(exist_ok=True)
    store = RESULTS / "precise.json"
    found = json.loads(store.read_text()) if store.exists() else {"peers": [], "targets": []}
    for name, measure in (("peers", lambda: peers(chosen.quick)), ("targets", targets)):
        if chosen.part in (name, "all"):
            found[name] = measure()
            store.write_text(json.dumps(found, indent=1))
            (RESULTS / "precise.md").write_text(markdown(found["peers"], found["targets"]))
    print(markdown(found["peers"], found["targets"]))


if __name__ == "__main__":
    main()
