"""Tables and figure of `work_precision`, from its results."""

from pathlib import Path
from typing import Any

import numpy as np

# Below this, errors are rounding.
_FLOOR = 1e-16
# Worse than this, an answer is called wrong.
_WRONG = 1e-2

# Okabe and Ito's colours, and markers, so that nothing hangs on colour alone.
_STYLE = {
    "gflow": ("#000000", "o"),
    "gflow-call": ("#777777", "s"),
    "numbalsoda": ("#D55E00", "^"),
    "lsoda": ("#E69F00", "v"),
    "cvode": ("#0072B2", "D"),
    "bdf": ("#56B4E9", "<"),
    "radau": ("#56B4E9", ">"),
    "tsit5": ("#009E73", "P"),
    "dopri8": ("#009E73", "X"),
    "kvaerno5": ("#CC79A7", "*"),
}
_DASHED = ("gflow-call", "radau", "dopri8")


def front(runs: list[dict[str, Any]]) -> np.ndarray:
    """The undominated (error, seconds), shape (K, 2): errors rise, times fall."""
    points = sorted((max(r["error"], _FLOOR), r["seconds"]) for r in runs if r["outcome"] == "answer")
    kept: list[tuple[float, float]] = []
    for point in points:
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    return np.array(kept).reshape(-1, 2)


def seconds_at(runs: list[dict[str, Any]], error: float) -> float | None:
    """Time for an error, interpolated log-log on the front; None where no run is as accurate."""
    points = front(runs)
    good = int(np.sum(points[:, 0] <= error)) if points.size else 0
    if good == 0:
        return None
    if good == len(points):
        return float(points[-1, 1])
    logs = np.log(points[good - 1 : good + 1])
    return float(np.exp(np.interp(np.log(error), logs[:, 0], logs[:, 1])))


def _pick(results: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    return [r for r in results["runs"] if all(r[k] == v for k, v in wanted.items())]


def _cases(results: dict[str, Any]) -> list[tuple[int, float]]:
    return list(dict.fromkeys((r["depth"], r["scale"]) for r in results["runs"]))


def _gammas(results: dict[str, Any]) -> list[float]:
    return sorted({r["gamma"] for r in results["runs"]})


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _power(value: float) -> str:
    exponent = int(np.floor(np.log10(value) + 1e-9))
    mantissa = value / 10.0**exponent
    return f"1e{exponent}" if abs(mantissa - 1) < 1e-9 else f"{mantissa:.1f}e{exponent}"


def _gamma(value: float) -> str:
    return f"{value:g}" if value < 1e4 else _power(value)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(runs: list[dict[str, Any]], error: float) -> str:
    seconds = seconds_at(runs, error)
    if seconds is not None:
        return _time(seconds)
    if not runs:
        return "–"
    errors = [r["error"] for r in runs if r["outcome"] == "answer"]
    if errors:
        best = min(errors)
        return f"wrong (error {best:.1e})" if best > _WRONG else f"{best:.1e} at best"
    off = [r["landing"] for r in runs if r["outcome"] == "off gamma"]
    if off:
        return f"wrong (γ off by {min(off):.0e})"
    return "no answer"


def _fastest(results: dict[str, Any], ours: bool, **case: Any) -> tuple[float, str] | None:
    times = []
    for key, solver in results["solvers"].items():
        seconds = seconds_at(_pick(results, solver=key, **case), results["error"])
        if solver["ours"] == ours and seconds is not None:
            times.append((seconds, solver["name"]))
    return min(times, default=None)


def _gain(own: tuple[float, str] | None, peer: tuple[float, str] | None) -> str:
    if own is None:
        return "–" if peer is None else f"{peer[1]} alone"
    if peer is None:
        return "gflow alone"
    ratio = peer[0] / own[0]
    return f"**{ratio:.0f} ×** ({peer[1]})" if ratio >= 10 else f"**{ratio:.2g} ×** ({peer[1]})"


def markdown(results: dict[str, Any]) -> str:
    error = results["error"]
    gammas = _gammas(results)
    head = [f"γ = {_gamma(g)}" for g in gammas]
    target = _power(error)
    parts = [
        "# Work and precision",
        "Written by `python -m benchmarks.work_precision`, which says how it measures. "
        f"{results['machine']}; single runs use one core. "
        + ", ".join(f"{k} {v}" for k, v in results["versions"].items())
        + f". References: {'; '.join(results['references'])}.",
        *results["skipped"],
        f"## Gain: gflow against the best peer at an error of β/γ of {target}",
        "Time of the best peer over time of gflow (the fastest way to call it); below 1 the peer wins. 'gflow alone': "
        f"no peer was as accurate within the wall limit of {results['limit']:g} s.",
    ]
    rows = []
    for depth, scale in _cases(results):
        cells = []
        for gamma in gammas:
            case = {"depth": depth, "scale": scale, "gamma": gamma}
            cells.append(_gain(_fastest(results, True, **case), _fastest(results, False, **case)))
        rows.append([f"D = {depth}, scale {scale:g}", *cells])
    parts.append(_table(["", *head], rows))
    if (3, 1e-3) in _cases(results):
        parts.append(
            "D = 3 from scale 1e-3 is not stiff: the flow ends with one sample and one coordinate, whose β/γ follows "
            "from γ alone, and any solver gets there in a few steps."
        )
    parts.append(f"## Time of a single run at an error of {target}, after compilation")
    for depth, scale in _cases(results):
        rows = [
            [s["name"], *(_cell(_pick(results, solver=k, depth=depth, scale=scale, gamma=g), error) for g in gammas)]
            for k, s in results["solvers"].items()
        ]
        parts += [f"D = {depth}, scale {scale:g}:", _table(["", *head], rows)]
    parts += _sweep_part(results, target) + _compile_part(results) + _counts_part(results, target)
    return "\n\n".join(parts) + "\n"


def _sweep_part(results: dict[str, Any], target: str) -> list[str]:
    if not results["sweeps"]:
        return []
    first = results["sweeps"][0]
    title = f"## A sweep: {first['scales']:,} scales from 1e-3 to 1e3 to γ = {_gamma(first['gamma'])}, on all cores"
    text = (
        f"At the fastest rtol whose worst error on a sample of the scales is at most {target}. Peers that would need "
        "minutes are extrapolated from the sample (marked *); a batch in lock-step has little to gain beyond it."
    )
    rows = []
    for row in results["sweeps"]:
        name = results["solvers"][row["solver"]]["name"]
        if "seconds" in row:
            star = "*" if row["extrapolated"] else ""
            cells = [f"{row['seconds']:.3g} s{star}", f"{row['rtol']:.0e}", f"{row['error']:.1e}"]
        else:
            answers = [t for t in row["sample"] if t["outcome"] == "answer"]
            cells = [f"no answer ({row['sample'][-1]['outcome']})", "–", "–"]
            if answers:
                closest = min(answers, key=lambda t: (t["lost"], t["error"]))
                missed = f"{closest['lost']} of {closest['scales']} lost, " if closest["lost"] else ""
                cells = ["not accurate", f"{closest['rtol']:.0e}", f"{missed}{closest['error']:.1e} at best"]
        rows.append([f"D = {row['depth']}", name, *cells, f"{row.get('compile_seconds', 0.0):.1f} s"])
    rows.sort(key=lambda r: r[0])
    parts = [title, text, _table(["", "solver", "time", "rtol", "worst error", "compilation, start"], rows)]
    for depth in sorted({r["depth"] for r in results["sweeps"]}):
        best: dict[bool, tuple[float, str] | None] = {}
        for ours in (True, False):
            rows_of = [r for r in results["sweeps"] if r["depth"] == depth and "seconds" in r]
            named = [(r["seconds"], results["solvers"][r["solver"]]) for r in rows_of]
            best[ours] = min(((t, s["name"]) for t, s in named if s["ours"] == ours), default=None)
        parts.append(f"Gain, D = {depth}: {_gain(best[True], best[False])}.")
    return parts


def _compile_part(results: dict[str, Any]) -> list[str]:
    depths = sorted({c["depth"] for c in results["compile"]})
    rows = []
    for key, solver in results["solvers"].items():
        seconds = {c["depth"]: c["seconds"] for c in results["compile"] if c["solver"] == key}
        rows.append([solver["name"], *(f"{seconds[d]:.1f} s" if d in seconds else "–" for d in depths)])
    return [
        "## Compilation",
        "First run less the second, imports included; numba keeps its compilations on disk.",
        _table(["", *(f"D = {d}" for d in depths)], rows),
    ]


def _counts_part(results: dict[str, Any], target: str) -> list[str]:
    """What the fastest run that is accurate enough did."""
    depth, scale = _cases(results)[0]
    short = {"evaluations": "f", "jacobians": "J", "factorizations": "LU", "newton": "Newton", "steps": "steps"}
    short["rejected"] = "rejected"
    rows = []
    for key, solver in results["solvers"].items():
        cells = []
        for gamma in _gammas(results):
            runs = _pick(results, solver=key, depth=depth, scale=scale, gamma=gamma, outcome="answer")
            good = [r for r in runs if r["error"] <= results["error"]]
            if not good:
                cells.append("–")
                continue
            run = min(good, key=lambda r: r["seconds"])
            counted = ", ".join(f"{run['counts'][k]:,} {short[k]}" for k in short if k in run["counts"])
            cells.append(f"{counted} (rtol {_power(run['rtol'])}, error {run['error']:.0e})")
        rows.append([solver["name"], *cells])
    return [
        f"## What was counted, D = {depth}, scale {scale:g}",
        f"Of the fastest run with an error of at most {target}: evaluations of the field (f), Jacobians (J), "
        "factorizations (LU), steps, rejected steps, as far as the solver tells. gflow's steps each solve for all "
        "stages of a collocation formula.",
        _table(["", *(f"γ = {_gamma(g)}" for g in _gammas(results))], rows),
    ]


def _loss(gamma: float) -> str:
    digits = gamma / np.log(10)
    if digits < 1e5:
        return f"$10^{{-{digits:.0f}}}$"
    exponent = int(np.floor(np.log10(digits)))
    return rf"$10^{{-{digits / 10.0**exponent:.1f} \cdot 10^{{{exponent}}}}}$"


def figure(results: dict[str, Any], path: Path) -> None:
    """Time against error, a panel for each gamma, for the first depth and scale."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullLocator

    depth, scale = _cases(results)[0]
    gammas = _gammas(results)
    columns = min(3, len(gammas) + 1)
    lines = -(-(len(gammas) + 1) // columns)
    plt.rcParams.update({"font.size": 10.5, "axes.spines.top": False, "axes.spines.right": False})
    size = (3.3 * columns, 3.0 * lines)
    fig, grid = plt.subplots(
        lines, columns, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    axes = list(grid.flat)
    shown = [k for k in _STYLE if k in results["solvers"]]

    def style(key: str) -> dict[str, Any]:
        colour, marker = _STYLE[key]
        width, dash = (2.2 if results["solvers"][key]["ours"] else 1.3), ("--" if key in _DASHED else "-")
        return {"color": colour, "marker": marker, "ms": 7 if marker == "*" else 5, "mew": 0, "lw": width, "ls": dash}

    for ax, gamma in zip(axes, gammas, strict=False):
        silent = []
        for key in reversed(shown):
            runs = _pick(results, solver=key, depth=depth, scale=scale, gamma=gamma)
            points = front(runs)
            if points.size:
                ax.plot(points[:, 0], 1e3 * points[:, 1], **style(key))
            elif runs:
                silent.append(results["solvers"][key]["name"])
        ax.set_title(f"γ = {_gamma(gamma)}: loss {_loss(gamma)}", fontsize=10.5)
        if silent:
            peers = [k for k in shown if not results["solvers"][k]["ours"]]
            everyone = len(silent) == len(peers) and not any(s.startswith("gflow") for s in silent)
            text = "no peer answers" if everyone else "no answer:\n" + "\n".join(reversed(silent))
            ax.text(0.03, 0.97, text, transform=ax.transAxes, va="top", fontsize=8.5, color="#444444")
    axes[0].set_xscale("log")
    axes[0].set_yscale("log")
    axes[0].invert_xaxis()
    axes[0].xaxis.set_major_locator(LogLocator(numticks=5))
    axes[0].xaxis.set_minor_locator(NullLocator())
    for k, ax in enumerate(axes[: len(gammas)]):
        ax.grid(color="#e4e4e4", lw=0.6)
        ax.set_axisbelow(True)
        if k % columns == 0:
            ax.set_ylabel("time of a run (ms)")
        if k + columns >= len(gammas):
            ax.set_xlabel("error of β/γ (more exact to the right)")
            ax.tick_params(labelbottom=True)
    for ax in axes[len(gammas) :]:
        ax.axis("off")
    handles = [Line2D([], [], **style(k)) for k in shown]
    names = [results["solvers"][k]["name"] for k in shown]
    title = f"D = {depth}, scale {scale:g}, N = 4, d = 10\none core, after compilation"
    axes[len(gammas)].legend(handles, names, loc="center", frameon=False, fontsize=10, title=title, title_fontsize=9.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=150)
    plt.close(fig)
