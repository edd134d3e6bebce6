"""A study of a paper: claims with computed verdicts, data, figures and one page.

A study is a module of `gflow.studies` that holds a `Study` named `STUDY`, and a row of `STUDIES` below. Each part of it
computes a Dataset, reads its claims off that Dataset, and draws from it; so claims and figures can be made again
without computing, and a run that was interrupted goes on from the parts that are finished.
"""

import base64
import functools
import hashlib
import html
import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

# The names that `gflow reproduce` takes, and the modules that hold the studies.
STUDIES: dict[str, str] = {
    "leaky-relu": "leaky_relu",
    "relu-square-loss": "relu_square",
    "deep-factorization": "factorization",
    "discretization": "discretization",
    "wide-networks": "wide_networks",
    "diagonal": "diagonal",
}


class Claim(NamedTuple):
    """What is claimed, what it predicts, what was measured, and whether that agrees.

    `note` is the condition with which the claim holds, or what it fails on.

    !!! example

        ```python
        >>> from gflow.studies.report import Claim
        >>> Claim.close("22/7 for pi", 3.141592653589793, 22 / 7, 1e-2).holds
        True

        ```
    """

    text: str
    prediction: str
    measurement: str
    holds: bool
    note: str = ""

    @classmethod
    def close(cls, text: str, prediction: float, measured: Any, tolerance: float) -> "Claim":
        """`measured`, a number or all of an array, is `prediction` to the absolute `tolerance`."""
        error = float(np.max(np.abs(np.asarray(measured, float) - prediction)))
        measurement = _numbers(measured) + f" (off by {error:.2g})"
        return cls(text, f"{prediction:.10g} ± {tolerance:.2g}", measurement, error <= tolerance)

    @classmethod
    def at_most(cls, text: str, bound: float, measured: Any) -> "Claim":
        return cls(text, f"≤ {bound:.6g}", _numbers(measured), _all(np.asarray(measured) <= bound))

    @classmethod
    def at_least(cls, text: str, bound: float, measured: Any) -> "Claim":
        return cls(text, f"≥ {bound:.6g}", _numbers(measured), _all(np.asarray(measured) >= bound))

    @classmethod
    def cases(
        cls, text: str, prediction: str, measurement: str, agrees: dict[str, Any], *, condition: str = "",
        under: dict[str, Any] | None = None,
    ) -> "Claim":  # fmt: skip
        """Decided case by case: the claim holds if all cases agree with it; with the condition, if it fails only on
        cases that are not `under` it; else it fails on the cases named. A condition that no case meets saves nothing.
        """
        wrong = [name for name, agreed in agrees.items() if not agreed]
        inside = {name: True for name in agrees} if under is None else under
        broken = [name for name in wrong if inside[name]]
        counted = f"{measurement}; {len(agrees) - len(wrong)} of {len(agrees)} cases agree"
        if not wrong:
            return cls(text, prediction, counted, bool(agrees))
        if not broken and any(inside[name] for name in agrees):
            return cls(text, prediction, counted, True, condition)
        named = ", ".join((broken or wrong)[:3]) + (f" and {len(broken) - 3} more" if len(broken) > 3 else "")
        return cls(text, prediction, counted, False, named)


def _all(agrees: np.ndarray) -> bool:
    """Nothing measured is no success."""
    return agrees.size > 0 and bool(np.all(agrees))


def _numbers(values: Any) -> str:
    flat = np.ravel(np.asarray(values, float))
    if flat.size <= 3:
        return ", ".join(f"{v:.10g}" for v in flat)
    return f"{flat.size} values from {flat.min():.6g} to {flat.max():.6g}"


class Part(NamedTuple):
    """One experiment.

    - `compute(quick, report)`: the Dataset; `quick` asks for a small version, and `report(fraction)` moves the bar.
    - `claims(ds)`: the claims that it decides. `figures`: names and functions of the Dataset that return a figure.
    - `tables`: captions and functions of the Dataset that return a pandas DataFrame.
    - `pages`: names and functions of the Dataset that return the text of an HTML file, to which the study's page links.

    !!! example

        ```python
        >>> from gflow.studies.report import Claim, Part
        >>> import xarray as xr
        >>> compute = lambda quick, report: xr.Dataset({"pi": 22 / 7})
        >>> part = Part("pi", "22/7 for pi", compute, lambda ds: [Claim.close("pi", 3.141592653589793, ds.pi, 1e-2)])
        >>> part.claims(part.compute(True, print))[0].holds
        True

        ```
    """

    name: str
    title: str
    compute: Callable[[bool, Callable[[float], None]], xr.Dataset]
    claims: Callable[[xr.Dataset], Sequence[Claim]]
    figures: dict[str, Callable[[xr.Dataset], Any]] = {}  # noqa: RUF012
    tables: dict[str, Callable[[xr.Dataset], pd.DataFrame]] = {}  # noqa: RUF012
    pages: dict[str, Callable[[xr.Dataset], str]] = {}  # noqa: RUF012


class Study(NamedTuple):
    """A paper: the `name` that `gflow reproduce` takes, `title`, `source` and `summary` of its page, and its parts.

    !!! example

        ```python
        >>> from gflow.studies.report import load
        >>> study = load("leaky-relu")
        >>> [part.name for part in study.parts][-2:]
        ['directions', 'digits']

        ```
    """

    name: str
    title: str
    source: str
    summary: str
    parts: tuple[Part, ...]


def load(name: str) -> Study:
    """The study of that name.

    **Raises:** `ValueError` for a name that is not in `STUDIES`.

    !!! example

        ```python
        >>> from gflow.studies.report import load
        >>> load("wide-networks").name
        'wide-networks'

        ```
    """
    if name not in STUDIES:
        raise ValueError(f"there is no study {name!r}; choose among {', '.join(STUDIES)}, or all.")
    return importlib.import_module(f"{__package__}.{STUDIES[name]}").STUDY


def reproduce(
    study: Study, out: str | Path, *, quick: bool = False, progress: Callable[[str, float], None] | None = None
) -> list[Claim]:
    """Run a study and write its page.

    **Arguments:**

    - `study`: from `load`.
    - `out`: a folder. It gets `<name>.html`, one self-contained page, and a folder `<name>` with `claims.csv`, a netCDF
      file for each part, each figure as PNG and SVG, and the pages that parts make of their own. Parts found there that
      were computed by the same code are not computed again.
    - `quick`: a small version, for a first look.
    - `progress`: called as `progress(part, fraction of the study)`.

    **Returns:** the claims, with their verdicts.

    !!! example

        ```python
        >>> import pathlib, tempfile
        >>> from gflow.studies.report import load, reproduce
        >>> study = load("leaky-relu")._replace(parts=())  # the head of its page alone
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     claims = reproduce(study, folder, quick=True)
        ...     claims, sorted(path.name for path in pathlib.Path(folder).iterdir())
        ([], ['leaky-relu', 'leaky-relu.html'])

        ```
    """
    folder = Path(out) / study.name
    folder.mkdir(parents=True, exist_ok=True)
    claims: list[Claim] = []
    sections = []
    for k, part in enumerate(study.parts):
        report = lambda fraction, k=k, part=part: progress and progress(part.name, (k + fraction) / len(study.parts))
        ds = _dataset(folder / f"{part.name}.nc", study, part, quick, report)
        found = list(part.claims(ds))
        pictures = [_draw(folder / name, draw, ds) for name, draw in part.figures.items()]
        for name, write in part.pages.items():
            (folder / f"{name}.html").write_text(write(ds), encoding="utf-8")
        claims += found
        tables = {name: table(ds) for name, table in part.tables.items()}
        sections.append(_section(part, found, pictures, tables, [f"{study.name}/{name}.html" for name in part.pages]))
        report(1.0)
    rows = [("claim", "prediction", "measurement", "verdict"), *((*claim[:3], verdict(claim)) for claim in claims)]
    (folder / "claims.csv").write_text(
        "".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n" for row in rows), encoding="utf-8"
    )
    (Path(out) / f"{study.name}.html").write_text(_page(study, quick, claims, sections), encoding="utf-8")
    return claims


def verdict(claim: Claim) -> str:
    """Holds, holds with the condition that ..., fails on ..., or does not hold.

    !!! example

        ```python
        >>> from gflow.studies.report import Claim, verdict
        >>> verdict(Claim.at_most("22/7 is not above pi", 3.141592653589793, 22 / 7))
        'does not hold'

        ```
    """
    if claim.holds:
        return f"holds with the condition that {claim.note}" if claim.note else "holds"
    return f"fails on {claim.note}" if claim.note else "does not hold"


def _dataset(path: Path, study: Study, part: Part, quick: bool, report: Any) -> xr.Dataset:
    """The Dataset of a part: from its file if the same code made it, or computed and written."""
    made_by = {"study": study.name, "part": part.name, "quick": int(quick), "code": _code(part)}
    if path.exists():
        try:
            with xr.open_dataset(path, engine="h5netcdf") as file:
                old = file.load()
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as netCDF; delete it, and it is made anew.") from error
        if all(old.attrs.get(name) == value for name, value in made_by.items()):
            return old
    report(0.0)
    ds = part.compute(quick, report).assign_attrs(made_by)
    unfinished = path.with_name(path.name + ".part")
    ds.to_netcdf(unfinished, engine="h5netcdf")
    unfinished.replace(path)
    return ds


def _code(part: Part) -> str:
    """Of all that a result depends on: the study's module and this library."""
    return hashlib.sha256(Path(inspect.getfile(part.compute)).read_bytes() + _library()).hexdigest()


@functools.cache
def _library() -> bytes:
    """A digest of the library, which is the same for all parts of a run."""
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()


def _draw(path: Path, draw: Callable[[xr.Dataset], Any], ds: xr.Dataset) -> Path:
    import matplotlib.pyplot as plt

    figure = draw(ds)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=150)
    plt.close(figure)
    return path.with_suffix(".png")


def _section(
    part: Part, claims: Sequence[Claim], pictures: Sequence[Path], tables: dict[str, pd.DataFrame],
    pages: Sequence[str],
) -> str:  # fmt: skip
    cell = lambda text: f"<td>{html.escape(text)}</td>"
    rows = "".join(
        f'<tr class="{"yes" if claim.holds else "no"}">{"".join(map(cell, (*claim[:3], verdict(claim))))}</tr>\n'
        for claim in claims
    )
    head = "<tr><th>claim</th><th>prediction</th><th>measurement</th><th>verdict</th></tr>\n"
    table = f"<table>\n{head}{rows}</table>\n" if claims else ""
    images = "".join(
        f'<img alt="{html.escape(picture.stem)}" src="data:image/png;base64,'
        f'{base64.b64encode(picture.read_bytes()).decode()}">\n'
        for picture in pictures
    )
    numbers = "".join(
        f"<p>{html.escape(caption)}</p>\n{frame.to_html(border=0, float_format=lambda v: f'{v:.3g}')}\n"
        for caption, frame in tables.items()
    )
    links = "".join(f'<p><a href="{html.escape(page)}">{html.escape(page)}</a></p>\n' for page in pages)
    return f"<h2>{html.escape(part.title)}</h2>\n{links}{table}{numbers}{images}"


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
    "table{border-collapse:collapse;width:100%;font-size:.9em}td,th{border:1px solid #ccc;padding:.3em .6em;"
    "text-align:left;vertical-align:top}.yes td:last-child{color:#005a8c}.no td:last-child{color:#a34700;"
    "font-weight:bold}img{max-width:100%;margin:1em 0;background:#fff}"
    "@media(max-width:600px){table{display:block;overflow-x:auto}}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#1b1b1b}a{color:#8ab4f8}td,th{border-color:#555}"
    ".yes td:last-child{color:#6cb6e0}.no td:last-child{color:#f0a060}}"
)


def _page(study: Study, quick: bool, claims: Sequence[Claim], sections: Sequence[str]) -> str:
    held = sum(claim.holds for claim in claims)
    conditional = sum(claim.holds and bool(claim.note) for claim in claims)
    note = f" Of these, {conditional} with a condition." if conditional else ""
    note += " This is the quick version." if quick else ""
    again = f"gflow reproduce {study.name}{' --quick' if quick else ''} --out DIR"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(study.title)}</title>\n"
        f"<style>{_STYLE}</style></head><body>\n<h1>{html.escape(study.title)}</h1>\n"
        f"<p>{html.escape(study.source)}</p>\n<p>{html.escape(study.summary)}</p>\n"
        f"<p><strong>{held} of {len(claims)} claims hold.</strong>{note} To repeat: <code>{again}</code></p>\n"
        + "\n".join(sections)
        + "</body></html>\n"
    )
