"""Verdicts of the papers: read off the data of the runs behind docs/papers again, none has flipped.

`data/studies/<study>` holds what `gflow reproduce` wrote there: `claims.csv` and the netCDF files of all parts, but for
those that are too large.
"""

import html
from pathlib import Path

import pandas as pd
import pytest
import xarray as xr

from gflow.studies import report
from gflow.studies.report import verdict

ROOT = Path(__file__).parents[1]
RUNS = sorted(folder for folder in (ROOT / "tests/data/studies").iterdir() if folder.is_dir())
# Parts without their data: a page of its own needs every path.
LEFT_OUT, LEFT_OUT_CLAIMS = {"diagonal": {"explorer"}}, {"diagonal": 2}


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_verdicts(run):
    study = report.load(run.name)
    told = dict(pd.read_csv(run / "claims.csv")[["claim", "verdict"]].itertuples(index=False))
    parts = [part for part in study.parts if (run / f"{part.name}.nc").exists()]
    assert {part.name for part in study.parts} - {part.name for part in parts} == LEFT_OUT.get(run.name, set())
    found = {}
    for part in parts:
        with xr.open_dataset(run / f"{part.name}.nc", engine="h5netcdf") as ds:
            found |= {claim.text: verdict(claim) for claim in part.claims(ds.load())}
    # What parts claim whose data are not here is at the end.
    left_out = list(told)[len(found) :] if LEFT_OUT.get(run.name) else []
    assert found == {text: said for text, said in told.items() if text not in left_out}
    assert len(left_out) == LEFT_OUT_CLAIMS.get(run.name, 0)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_the_page_shows_them(run):
    page = (ROOT / "docs/papers" / f"{run.name}.html").read_text()
    for row in pd.read_csv(run / "claims.csv", dtype=str).itertuples(index=False):
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        assert cells in page
