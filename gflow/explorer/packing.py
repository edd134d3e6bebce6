"""The page: contents as JSON, and template, style and scripts in one file that loads nothing."""

import html
import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np
import xarray as xr

from ..status import Status
from .contents import DISTANCES, GRID

DIGITS = 6  # of every number on the page
_SAMPLES = 16  # bars at most; the samples of less weight share one
# In the order in which they are drawn and put together.
_SCRIPTS = ("numbers.js", "drawing.js", "plane.js", "distances.js", "weights.js", "time.js", "explorer.js")


def pack(shown: xr.Dataset) -> dict[str, Any]:
    """What the scripts read: numbers to six digits as flat lists in the order (depth, scale, decades), null for NaN."""
    chosen, rest = _samples(shown)
    weights = shown.weights.transpose(*GRID, "sample").values
    places = {name: shown[name] for name in ("place", "Q_mu_place", "irreversible_place")}
    curves = {name: shown[name].transpose("depth", "curve_mu", "axis") for name in ("Q_mu_curve", "irreversible_curve")}
    names = ("log_time", "log_time_loss", "mu", "excess_l1", "excess_l2", "off_plane", *DISTANCES)
    fields = {name: shown[name].transpose(*GRID) for name in names}
    fields |= {name: place.transpose(*GRID, "axis") for name, place in places.items()}
    return {
        **{name: _numbers(shown[name]) for name in GRID},
        "status": shown.status.transpose("depth", "scale").values.ravel().tolist(),
        "success": int(Status.success),
        "sentences": {int(code): Status(int(code)).sentence for code in np.unique(shown.status)},
        "fields": {name: _numbers(field) for name, field in fields.items()},
        "curves": {name: _numbers(curve) for name, curve in curves.items()},
        "l2": _numbers(shown.l2_place),
        "l1": _numbers(shown.l1_place),
        "samples": chosen.tolist(),
        "labels": shown.label.values[chosen].tolist(),
        "others": rest.size,
        # To so many decimals, not digits: what is drawn is a share.
        "weights": _numbers(weights[..., chosen].round(DIGITS)),
        "other_weights": _numbers(weights[..., rest].sum(-1).round(DIGITS)),
        "notes": [note for note in shown.attrs.get("notes", "").split("\n") if note],
    }


def page(shown: xr.Dataset, *, title: str, about: str) -> str:
    """One HTML file with everything in it.

    **Arguments:**

    - `shown`: from `gflow.explorer.contents`.
    - `title`, `about`: plain text, a name for the page and a line on the data and how the flows were computed.

    **Returns:** the text of the file, to be written as UTF-8.

    **Raises:** `ValueError` if `shown` comes from elsewhere.

    !!! example

        ```python
        >>> import gflow, gflow.datasets, gflow.explorer, gflow.studies
        >>> data = gflow.datasets.load("toy")
        >>> ds = gflow.studies.transition(data.X, data.y, depths=[2], scales=[0.01, 1.0], decades=[100.0, 1000.0])
        >>> text = gflow.explorer.page(gflow.explorer.contents(ds, data.X, data.y), title="Toy", about=str(data))
        >>> text.startswith("<!doctype html>"), "<title>Toy</title>" in text
        (True, True)

        ```
    """
    if "place" not in shown:
        raise ValueError("shown must be a Dataset of gflow.explorer.contents; pass what transition returns to that.")
    folder = resources.files("gflow.explorer") / "page"
    read = lambda name: (folder / name).read_text(encoding="utf-8")
    packed = json.dumps(pack(shown), separators=(",", ":"), allow_nan=False)
    return _filled(
        read("page.html"),
        {
            "title": html.escape(title),
            "about": html.escape(about),
            "style": read("style.css"),
            # In HTML, a script ends at the first "</".
            "data": packed.replace("<", "\\u003c"),
            "script": "".join(read(name) for name in _SCRIPTS),
        },
    )


def _filled(template: str, values: Mapping[str, str]) -> str:
    """In one pass, so that braces in what is put in are left alone."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _numbers(values: Any) -> list[float | None]:
    flat = np.ravel(np.asarray(values, float))
    return [float(f"{v:.{DIGITS}g}") if np.isfinite(v) else None for v in flat]


def _samples(shown: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The samples that weigh most anywhere on the grid, in their order, and the others."""
    most = shown.weights.max(GRID).fillna(0.0).values
    order = np.argsort(-most, kind="stable")
    count = len(order) if len(order) <= _SAMPLES else _SAMPLES - 1
    return np.sort(order[:count]), np.sort(order[count:])
