"""The solvers under test, each behind `prepare(depth) -> run(scale, gamma, rtol) -> Answer`, and their sweeps.

Choices for each peer, all made in its favour by trial (`problem` says what is integrated):

- All: rtol as asked, atol = rtol times the size of c; the log(gamma) clock, so that none needs an event.
- SciPy's LSODA through `odeint`, a single call into compiled code (`solve_ivp` costs a Python call per step); BDF and
  Radau stepped without `solve_ivp`, which saves its bookkeeping. All three with the analytic Jacobian (a third faster
  on the stiff part, for LSODA up to eight times).
- CVODE through scikit-sundae: BDF, dense solver, analytic Jacobian, one call.
- SciPy and CVODE call a field compiled by numba, where that is installed, and the NumPy one elsewhere. "SciPy LSODA,
  NumPy field" always calls the latter: the difference is the language's.
- numbalsoda: LSODA in C++ with the field compiled into a C callback; no Python in between. It takes no Jacobian.
- Diffrax: `diffeqsolve` under `jax.jit`, compiled ahead. Kvaerno5 gets a PI controller and Newton's method with a fresh
  Jacobian at each iteration and a tolerance of 10 rtol: with its default, a simplified Newton method, it takes 3 to 30
  times as many steps. Tsit5 and Dopri8 run with the default controller.
"""

import functools
import importlib.util
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from . import problem
from .problem import Instance

# A cap on steps that no run within the wall limit comes near.
MANY = 100_000_000


class Answer(NamedTuple):
    """beta, or None with a reason; and what the solver counts."""

    beta: np.ndarray | None
    counts: dict[str, int]
    reason: str = ""


class Solver(NamedTuple):
    """`needs`: modules. `prepare(depth)` leaves compilation to the first run, which goes to the gamma `warm`.
    `sweep(depth)` returns `run(scales, gamma, rtol) -> betas`, on all cores; None where that would add nothing."""

    name: str
    needs: tuple[str, ...]
    prepare: Callable[[int], Callable[[float, float, float], Answer]]
    sweep: Callable[[int], Callable[[np.ndarray, float, float], np.ndarray]] | None = None
    ours: bool = False
    warm: float = 1e4

    @property
    def missing(self) -> list[str]:
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


# ---------------------------------------------------------------- gflow


def _gflow_jitted(depth: int):
    """`gradient_flow` inside `jax.jit`: compiled once for all scales, targets and tolerances."""
    jax, gflow, flow = _gflow(depth)
    flow = jax.jit(flow)

    def run(scale: float, gamma: float, rtol: float) -> Answer:
        beta, status, stats = jax.block_until_ready(flow(scale, gamma, rtol))
        return _gflow_answer(gflow, beta, status, stats)

    return run


def _gflow_called(depth: int, chosen: bool = False):
    """`gradient_flow` as a user calls it, input checks included."""
    _, gflow, flow = _gflow(depth, chosen)
    return lambda scale, gamma, rtol: _gflow_answer(gflow, *flow(scale, gamma, rtol))


def _gflow(depth: int, chosen: bool = False):
    jax = _jax()
    import gflow

    X = jax.numpy.asarray(problem.data())
    y = jax.numpy.ones(X.shape[0])

    def flow(scale, gamma, rtol):
        model = gflow.models.DiagonalNetwork(X.shape[1], depth, scale)
        solver = None if chosen else gflow.LogRadau()
        traj = gflow.gradient_flow(model, X, y, stop=gamma, solver=solver, rtol=rtol, throw=False)
        return traj.final.beta, traj.status_code, traj.stats

    return jax, gflow, flow


def _gflow_answer(gflow: Any, beta: Any, status: Any, stats: Any) -> Answer:
    keep = {"steps": "steps", "rejections": "rejected", "newton": "newton", "newton_iterations": "newton"}
    counts = {keep[k]: int(v) for k, v in stats.items() if k in keep}
    status = gflow.Status(int(status))
    good = status == gflow.Status.success
    return Answer(np.asarray(beta) if good else None, counts, "" if good else f"status {status.name}")


def gflow_sweep(depth: int):
    """A thousand scales at once through gflow: `run(scales, gamma, rtol) -> betas`. The one place that knows how.

    One compiled `lax.map` over `gradient_flow`, and a thread for each core, which gets every other scale: neighbours
    cost about the same, so the shares do too.
    """
    jax, _, flow = _gflow(depth)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    part = jax.jit(lambda scales, gamma, rtol: jax.lax.map(lambda s: flow(s, gamma, rtol)[0], scales))

    def run(scales: np.ndarray, gamma: float, rtol: float) -> np.ndarray:
        betas = np.empty((scales.size, problem.data().shape[1]))

        def work(k: int) -> None:
            betas[k::cores] = part(jax.numpy.asarray(scales[k::cores]), gamma, rtol)

        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(work, range(cores)))
        return betas

    return run


def _jax():
    import jax

    jax.config.update("jax_enable_x64", True)
    return jax


# ---------------------------------------------------------------- SciPy and SUNDIALS


class _Functions(NamedTuple):
    field: Callable[[float, np.ndarray], np.ndarray]
    jacobian: Callable[[float, np.ndarray], np.ndarray]
    counts: Callable[[], dict[str, int]]


def _functions(instance: Instance, compiled_field: bool) -> _Functions:
    X = problem.data()
    if not (compiled_field and importlib.util.find_spec("numba")):
        f = problem.NumpyField(instance, X)
        return _Functions(f.field, f.jacobian, lambda: {"evaluations": f.evaluations, "jacobians": f.jacobians})
    from . import compiled

    p, d = compiled.parameters(instance, X), X.shape[1]

    def field(g, c):
        out = np.empty(d)
        compiled.field(g, c, out, p)
        return out

    def jacobian(g, c):
        out = np.empty((d, d))
        compiled.jacobian(g, c, out, p)
        return out

    return _Functions(field, jacobian, lambda: compiled.counts(p))


def _answer(c: np.ndarray, instance: Instance, counts: dict[str, int], reason: str = "") -> Answer:
    with np.errstate(all="ignore"):
        return Answer(None if reason else problem.beta(c, instance.depth, instance.scale), counts, reason)


def _scipy_lsoda(depth: int, compiled_field: bool = True):
    from scipy.integrate import odeint

    start = np.zeros(problem.data().shape[1])

    def run(scale: float, gamma: float, rtol: float) -> Answer:
        instance = Instance(depth, scale, gamma)
        f = _functions(instance, compiled_field)
        c, info = odeint(
            f.field,
            start,
            [0.0, instance.end],
            Dfun=f.jacobian,
            tfirst=True,
            rtol=rtol,
            atol=rtol * instance.size,
            mxstep=MANY,
            full_output=True,
        )
        counts = f.counts() | {"steps": int(info["nst"][-1])}
        return _answer(c[-1], instance, counts, "" if "successful" in info["message"] else "stopped by itself")

    return run


def _scipy_class(depth: int, method: str):
    import scipy.integrate

    start = np.zeros(problem.data().shape[1])

    def run(scale: float, gamma: float, rtol: float) -> Answer:
        instance = Instance(depth, scale, gamma)
        f = _functions(instance, True)
        make = getattr(scipy.integrate, method)
        solver = make(f.field, 0.0, start, instance.end, rtol=rtol, atol=rtol * instance.size, jac=f.jacobian)
        steps = 0
        while solver.status == "running":
            solver.step()
            steps += 1
        counts = f.counts() | {"factorizations": solver.nlu, "steps": steps}
        return _answer(solver.y, instance, counts, "" if solver.status == "finished" else "step size fell to rounding")

    return run


def _cvode(depth: int):
    from sksundae.cvode import CVODE

    X = problem.data()
    start = np.zeros(X.shape[1])

    def callbacks(instance: Instance):
        if importlib.util.find_spec("numba"):
            from . import compiled

            p = compiled.parameters(instance, X)
            right = lambda g, c, out: compiled.field(g, c, out, p)
            return right, lambda g, c, _, J: compiled.jacobian(g, c, J, p), lambda: compiled.counts(p)
        f = _functions(instance, False)

        def right(g, c, out):
            out[:] = f.field(g, c)

        def jacobian(g, c, _, J):
            J[:] = f.jacobian(g, c)

        return right, jacobian, f.counts

    def run(scale: float, gamma: float, rtol: float) -> Answer:
        instance = Instance(depth, scale, gamma)
        right, jacobian, counts = callbacks(instance)
        solver = CVODE(right, jacfn=jacobian, rtol=rtol, atol=rtol * instance.size, max_num_steps=MANY)
        solver.init_step(0.0, start)
        result = solver.step(instance.end, tstop=instance.end)
        return _answer(result.y, instance, counts(), "" if result.success else "stopped by itself")

    return run


def _in_processes(prepare: Callable[[int], Callable], depth: int):
    """A sweep with a process for each core; they are started and warm before the clock runs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = multiprocessing.get_context("spawn").Pool(cores, _keep, (prepare, depth))

    def run(scales: np.ndarray, gamma: float, rtol: float) -> np.ndarray:
        tasks = [(float(s), gamma, rtol) for s in scales]
        return np.array(pool.map(_one, tasks, chunksize=max(1, len(tasks) // (8 * cores))))

    return run


_kept: Any = None


def _keep(prepare: Callable, depth: int) -> None:
    global _kept
    _kept = prepare(depth)
    _kept(1.0, 10.0, 1e-4)


def _one(task: tuple[float, float, float]) -> np.ndarray:
    beta = _kept(*task).beta
    return np.full(problem.data().shape[1], np.nan) if beta is None else beta


# ---------------------------------------------------------------- numbalsoda


@functools.cache
def _numbalsoda():
    import numba
    from numba import carray  # pyright: ignore[reportPrivateImportUsage]
    from numbalsoda import lsoda, lsoda_sig

    from . import compiled

    X = problem.data()
    d = X.shape[1]
    size = compiled.parameters(Instance(2, 1.0, 1.0), X).size

    @numba.cfunc(lsoda_sig)
    def callback(g, c, out, p):
        compiled.field(g, carray(c, (d,)), carray(out, (d,)), carray(p, (size,)))

    address = callback.address

    @numba.njit(parallel=True)
    def many(parameters, ends, rtol, atols):
        out = np.empty((ends.size, d))
        good = np.empty(ends.size, np.bool_)
        for k in numba.prange(ends.size):
            times = np.array([0.0, ends[k]])
            c, good[k] = lsoda(address, np.zeros(d), times, parameters[k], rtol, atols[k], 100_000_000)
            out[k] = c[-1]
        return out, good

    return lsoda, address, many


def _numbalsoda_one(depth: int):
    from . import compiled

    lsoda, address, _ = _numbalsoda()
    X = problem.data()
    start = np.zeros(X.shape[1])

    def run(scale: float, gamma: float, rtol: float) -> Answer:
        instance = Instance(depth, scale, gamma)
        p = compiled.parameters(instance, X)
        times = np.array([0.0, instance.end])
        c, good = lsoda(address, start, times, p, rtol, rtol * instance.size, MANY)
        counts = {"evaluations": compiled.counts(p)["evaluations"]}
        return _answer(c[-1], instance, counts, "" if good else "stopped by itself")

    return run


def _numbalsoda_sweep(depth: int):
    """A compiled parallel loop over the scales."""
    from . import compiled

    *_, many = _numbalsoda()
    X = problem.data()

    def run(scales: np.ndarray, gamma: float, rtol: float) -> np.ndarray:
        instances = [Instance(depth, float(s), gamma) for s in scales]
        parameters = np.array([compiled.parameters(i, X) for i in instances])
        ends, sizes = np.array([i.end for i in instances]), np.array([i.size for i in instances])
        c, good = many(parameters, ends, rtol, rtol * sizes)
        betas = np.array([problem.beta(row, depth, float(s)) for row, s in zip(c, scales, strict=True)])
        betas[~good] = np.nan
        return betas

    return run


# ---------------------------------------------------------------- Diffrax


def _diffrax_solve(depth: int, method: str):
    """`solve(scale, gamma_0, end, rtol, size) -> (c, finished, stats)`, not compiled."""
    jax = _jax()
    import diffrax
    import optimistix

    jnp = jax.numpy
    X = jnp.asarray(problem.data())
    implicit = method == "Kvaerno5"
    pcoeff, icoeff = (0.4, 0.3) if implicit else (0.0, 1.0)

    def field(g, c, args):
        scale, gamma_0 = args
        C = jnp.cosh((depth - 2) * c) if depth > 2 else 1.0
        lower = C ** (2 / (depth - 2)) if depth > 3 else C * C
        beta = 2 * scale**depth * lower * C * jnp.sinh(depth * c)
        slope = 2 * depth * scale**depth * lower * jnp.cosh((2 * depth - 2) * c)
        q = jax.nn.softmax(-(X @ beta)) @ X
        v = depth * scale ** (depth - 2) * C * C * q
        return v * (gamma_0 * jnp.exp(g) / jnp.sum(slope * q * v))

    def solve(scale, gamma_0, end, rtol, size):
        options = {"root_finder": optimistix.Newton(10 * rtol, 10 * rtol * size)} if implicit else {}
        run = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            getattr(diffrax, method)(**options),
            0.0,
            end,
            None,
            jnp.zeros(X.shape[1]),
            args=(scale, gamma_0),
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol * size, pcoeff=pcoeff, icoeff=icoeff),
            saveat=diffrax.SaveAt(t1=True),
            max_steps=None,
            throw=False,
        )
        assert run.ys is not None
        return run.ys[0], run.result == diffrax.RESULTS.successful, run.stats

    return jax, solve


def _diffrax(depth: int, method: str):
    jax, solve = _diffrax_solve(depth, method)
    solve = jax.jit(solve)

    def run(scale: float, gamma: float, rtol: float) -> Answer:
        instance = Instance(depth, scale, gamma)
        c, finished, stats = solve(scale, instance.gamma_0, instance.end, rtol, instance.size)
        counts = {"steps": int(stats["num_accepted_steps"]), "rejected": int(stats["num_rejected_steps"])}
        return _answer(np.asarray(c), instance, counts, "" if finished else "stopped by itself")

    return run


def _diffrax_sweep(depth: int, method: str):
    jax, solve = _diffrax_solve(depth, method)
    solve = jax.jit(jax.vmap(solve, in_axes=(0, 0, 0, None, 0)))

    def run(scales: np.ndarray, gamma: float, rtol: float) -> np.ndarray:
        instances = [Instance(depth, float(s), gamma) for s in scales]
        columns = lambda name: np.array([getattr(i, name) for i in instances])
        c, finished, _ = solve(scales, columns("gamma_0"), columns("end"), rtol, columns("size"))
        betas = np.array([problem.beta(row, depth, float(s)) for row, s in zip(np.asarray(c), scales, strict=True)])
        betas[~np.asarray(finished)] = np.nan
        return betas

    return run


# ---------------------------------------------------------------- the list

_DIFFRAX = ("Tsit5", "Dopri8", "Kvaerno5")

SOLVERS = {
    "gflow": Solver("gflow, jitted", (), _gflow_jitted, gflow_sweep, ours=True),
    "gflow-call": Solver("gflow, as called", (), _gflow_called, ours=True),
    # To 1e6 it changes over to LogRadau on the way, so that both are compiled.
    "gflow-auto": Solver("gflow, solver=None", (), functools.partial(_gflow_called, chosen=True), ours=True, warm=1e6),
    "numbalsoda": Solver("numbalsoda LSODA", ("numba", "numbalsoda"), _numbalsoda_one, _numbalsoda_sweep),
    "lsoda": Solver("SciPy LSODA", (), _scipy_lsoda, functools.partial(_in_processes, _scipy_lsoda)),
    "lsoda-numpy": Solver("SciPy LSODA, NumPy field", (), functools.partial(_scipy_lsoda, compiled_field=False)),
    "bdf": Solver("SciPy BDF", (), functools.partial(_scipy_class, method="BDF")),
    "radau": Solver("SciPy Radau", (), functools.partial(_scipy_class, method="Radau")),
    "cvode": Solver("SUNDIALS CVODE", ("sksundae",), _cvode, functools.partial(_in_processes, _cvode)),
}
for _method in _DIFFRAX:
    SOLVERS[_method.lower()] = Solver(
        f"Diffrax {_method}",
        (),
        functools.partial(_diffrax, method=_method),
        functools.partial(_diffrax_sweep, method=_method) if _method != "Dopri8" else None,
    )
