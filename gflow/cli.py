"""The command line. `gflow transition` runs a study on a data set and writes its table, data and figures; `gflow sweep`
runs any sweep from a file."""

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from . import __version__

_ELSE = "(default: %(default)s)"


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `gflow` command. Exits with 2 on bad input, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"gflow: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as error:
        print(f"\ngflow: {str(error) or 'interrupted; the same command goes on from there.'}", file=sys.stderr)
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    from .studies.report import STUDIES

    parser = argparse.ArgumentParser(prog="gflow", description="Gradient flow to losses like 1e-1000.")
    parser.add_argument("--version", action="version", version=f"gflow {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "transition",
        help="from the kernel to the rich regime on a data set",
        description="Integrate diagonal networks over initialization scales down to tiny losses, and tell which "
        "max-margin limit each flow is near. Writes transition.nc, table.csv, phase-diagram.png, paths.png, and "
        "explorer.html, a page with sliders for scale, depth and accuracy that works without a network.",
    )
    command.add_argument("data", nargs="?", default="iris", help=f"iris, breast-cancer, toy, or a CSV file {_ELSE}")
    command.add_argument("--label", help="label column of the CSV file")
    command.add_argument("--depth", type=int, nargs="+", default=[2, 3], help="depths, each at least 2 (default: 2 3)")
    command.add_argument("--scales", type=_grid, default="0.01:100:41", help=f"LOW:HIGH:COUNT, in logs {_ELSE}")
    command.add_argument("--decades", type=_grid, default="1:1000:31", help=f"log10 1/loss, LOW:HIGH:COUNT {_ELSE}")
    command.add_argument("--loss", choices=("exponential", "logistic"), default="exponential", help=_ELSE)
    command.add_argument("--rtol", type=float, default=1e-6, help=f"tolerance of the flows {_ELSE}")
    command.add_argument("--max-steps", type=int, default=1_000_000, help=f"of a flow, at most {_ELSE}")
    command.add_argument("--no-intercept", action="store_true", help="do not append a column of ones")
    command.add_argument("--no-standardize", action="store_true", help="leave the columns as they are")
    command.add_argument("--out", type=Path, default=Path("transition-output"), help=f"folder for the results {_ELSE}")
    _add_workers(command)
    command.set_defaults(run=_transition)
    command = commands.add_parser(
        "reproduce",
        help="the claims of a paper, computed",
        description="Compute the claims of a paper. Writes one page with verdicts, netCDF files, and figures as PNG "
        "and SVG. An interrupted run goes on from the finished parts.",
    )
    command.add_argument("study", help=f"{', '.join(STUDIES)}, or all")
    command.add_argument("--quick", action="store_true", help="a small version, for a first look")
    command.add_argument("--out", type=Path, default=Path("reproduce-output"), help=f"folder for the results {_ELSE}")
    command.set_defaults(run=_reproduce)
    command = commands.add_parser(
        "sweep",
        help="flows over a grid of models, from a TOML file",
        description="Run the flows that a TOML file describes (see docs/sweeps.md), thousands of them, into a store; "
        "after an interruption of any kind the same command goes on where it was.",
    )
    command.add_argument("config", type=Path, metavar="CONFIG.toml", help="the model, the data and the grid")
    command.add_argument("--store", type=Path, required=True, metavar="DIR", help="folder for the result (zarr)")
    _add_workers(command)
    command.set_defaults(run=_sweep)
    return parser


def _add_workers(command: argparse.ArgumentParser) -> None:
    command.add_argument("--workers", type=int, help="processes: one for each core by default; 0: only this one")


def _grid(text: str) -> np.ndarray:
    from .sweeps.config import grid

    try:
        return grid(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _sweep(options: argparse.Namespace) -> None:
    from .sweeps import config, sweep
    from .sweeps.worker import keep_compilations

    keep_compilations()
    job = config.read(options.config)
    print(f"{job.points:,} flows ({job}). The store is {options.store}.")
    began = time.perf_counter()
    ds = sweep(**job.arguments, store=options.store, workers=options.workers)
    print(ds)
    opened = f"xarray.open_zarr({str(options.store)!r}, consolidated=False)"
    print(f"\n{time.perf_counter() - began:.1f} s. In Python: {opened}")
    _report_failures(ds.status)


def _report_failures(status: xr.DataArray) -> None:
    """Say how many flows failed, and why; exit with 1 if any did."""
    from .status import Status

    codes, counts = np.unique(status.values, return_counts=True)
    failed = {int(code): int(count) for code, count in zip(codes, counts, strict=True) if code != Status.success}
    if failed:
        print(f"{sum(failed.values())} of {status.size} flows did not reach their stop:", file=sys.stderr)
        for code, count in failed.items():
            print(f"  {count}: {Status(code).sentence}", file=sys.stderr)
        sys.exit(1)


def _transition(options: argparse.Namespace) -> None:
    from .sweeps.worker import keep_compilations

    keep_compilations()
    _require_netcdf("transition")
    from . import datasets, explorer, losses, plots
    from .studies import transition

    data = datasets.load(
        options.data,
        label=options.label,
        intercept=False if options.no_intercept else None,
        standardize=False if options.no_standardize else None,
    )
    _make_folder(options.out)
    loss = losses.Logistic() if options.loss == "logistic" else losses.Exponential()
    print(data)
    flows = len(options.depth) * options.scales.size
    print(f"{flows} flow{'s' if flows > 1 else ''} to a loss of 1e-{float(options.decades[-1]):g}.")
    began = time.perf_counter()
    ds = transition(
        data.X,
        data.y,
        depths=options.depth,
        scales=options.scales,
        decades=options.decades,
        loss=loss,
        rtol=options.rtol,
        max_steps=options.max_steps,
        store=options.out / "flows.zarr",
        workers=options.workers,
    )
    ds.to_netcdf(options.out / "transition.nc")
    _print_table(ds)
    ds[["excess_l1", "excess_l2", "distance_l2", "distance_Q_mu", "distance_l1", "nearest"]].to_dataframe().to_csv(
        options.out / "table.csv"
    )
    figures = plots.transition_figures(ds, options.out)
    shown = explorer.contents(ds, data.X, data.y, loss=loss, progress=True)
    about = f"{data}. {options.loss.capitalize()} loss, rtol {options.rtol:g}."
    page = explorer.page(shown, title=f"{data.name}: from the kernel to the rich regime", about=about)
    (options.out / "explorer.html").write_text(page, encoding="utf-8")
    names = ["flows.zarr", "transition.nc", "table.csv", *(figure.name for figure in figures), "explorer.html"]
    print(f"\n{time.perf_counter() - began:.1f} s. Written to {options.out}: {', '.join(names)}")
    _report_failures(ds.status)


def _reproduce(options: argparse.Namespace) -> None:
    from .sweeps.worker import keep_compilations

    keep_compilations()
    os.environ.setdefault("MPLBACKEND", "Agg")
    _require_netcdf("reproduce")
    from tqdm.auto import tqdm

    from .studies import report

    names = list(report.STUDIES) if options.study == "all" else [options.study]
    for study in [report.load(name) for name in names]:
        _make_folder(options.out)
        began = time.perf_counter()
        with tqdm(total=100.0, bar_format="{l_bar}{bar}| [{elapsed}<{remaining}]") as bar:

            def move(part: str, fraction: float, bar: tqdm = bar) -> None:
                bar.set_description(part, refresh=False)
                bar.n = round(100.0 * fraction, 1)
                bar.refresh()

            claims = report.reproduce(study, options.out, quick=options.quick, progress=move)
        print(f"\n{study.title}\n")
        for claim in claims:
            print(f"{report.verdict(claim).ljust(14)} {claim.text}: {claim.measurement} (predicted {claim.prediction})")
        held = f"{sum(claim.holds for claim in claims)} of {len(claims)} claims hold"
        print(f"\n{time.perf_counter() - began:.1f} s. {held}: {options.out / study.name}.html")


def _require_netcdf(command: str) -> None:
    if importlib.util.find_spec("h5netcdf") is None:
        raise ImportError(f"gflow {command} writes netCDF files and needs h5netcdf; install gflow[cli].")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {folder} cannot be made a folder ({error.strerror}); name another.") from error


def _print_table(ds: xr.Dataset) -> None:
    """Every few scales and accuracies; table.csv has them all."""
    from .studies.regimes import LIMITS

    rows = np.unique(np.linspace(0, ds.sizes["scale"] - 1, 9).round().astype(int))
    columns = np.unique(np.linspace(0, ds.sizes["decades"] - 1, 4).round().astype(int))
    heads = [f"loss 1e-{float(ds.decades[k]):.4g}" for k in columns]
    print("\nExcess l1 norm, excess l2 norm of beta/gamma, and the nearest limit (ties within 1% go to l2, then l1;")
    print("in brackets if farther than 10% of its norm; early, beta/gamma is short of margin 1, and excess below 0)")
    for depth in ds.depth.values:
        print(f"\ndepth {depth}".ljust(13) + "".join(head.ljust(26) for head in heads))
        one = ds.sel(depth=depth)
        for j in rows:
            cells = []
            for k in columns:
                at = one.isel(scale=j, decades=k)
                limit = "-" if int(at.nearest) < 0 else LIMITS[int(at.nearest)]
                if limit != "-" and float(at[f"distance_{limit}"]) > 0.1:
                    limit = f"({limit})"
                cells.append(f"{float(at.excess_l1):8.4f} {float(at.excess_l2):8.4f} {limit}".ljust(26))
            print(f"{float(one.scale[j]):<12.4g}" + "".join(cells).rstrip())
