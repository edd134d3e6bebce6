"""The machinery of `gflow reproduce`: verdicts, files, and going on after an interruption."""

import sys
import types

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from gflow import cli
from gflow.studies import report
from gflow.studies.report import Claim, Part, Study

CALLS = []


def compute(quick, tell):
    CALLS.append(quick)
    tell(0.5)
    return xr.Dataset({"v": ("k", [1.0, 2.0, 3.0])})


def claims(ds):
    v = ds.v.values
    total = Claim.close("the sum, with a <", 6.0, v.sum(), 1e-12)
    return [total, Claim.at_most("all", 2.5, v), Claim.at_least("all", 1, v)]


def draw(ds):
    figure, ax = plt.subplots()
    ax.plot(ds.v)
    return figure


def study(compute=compute):
    more = {"more": lambda ds: f"<p>{ds.v.values.sum():g}</p>"}
    second = Part("two", "Part two", compute, lambda ds: [], pages=more)
    parts = (Part("one", "Part one", compute, claims, {"line": draw}), second)
    return Study("example", "An example", "A source", "A summary.", parts)


def test_files_verdicts_and_reuse(tmp_path):
    CALLS.clear()
    seen = []
    found = report.reproduce(study(), tmp_path, quick=True, progress=lambda part, fraction: seen.append(fraction))
    assert [claim.holds for claim in found] == [True, False, True]
    assert seen == sorted(seen) and seen[-1] == 1.0
    names = {path.name for path in (tmp_path / "example").iterdir()}
    assert names == {"one.nc", "two.nc", "claims.csv", "line.png", "line.svg", "more.html"}
    assert (tmp_path / "example" / "more.html").read_text() == "<p>6</p>"
    page = (tmp_path / "example.html").read_text()
    assert "with a &lt;" in page and "does not hold" in page and "data:image/png;base64," in page
    assert '<a href="example/more.html">' in page
    assert "2 of 3 claims hold" in page and 'src="http' not in page
    report.reproduce(study(), tmp_path, quick=True)
    assert CALLS == [True, True]
    report.reproduce(study(), tmp_path)
    assert CALLS == [True, True, False, False]


def test_goes_on_after_an_interruption(tmp_path):
    CALLS.clear()

    def interrupted(quick, tell):
        raise KeyboardInterrupt

    first, second = study().parts
    with pytest.raises(KeyboardInterrupt):
        report.reproduce(study()._replace(parts=(first, second._replace(compute=interrupted))), tmp_path)
    assert len(CALLS) == 1
    report.reproduce(study(), tmp_path)
    assert len(CALLS) == 2


def test_a_claim_about_nan_does_not_hold():
    assert not Claim.close("", 0.0, np.nan, 1.0).holds
    assert not Claim.at_most("", 1.0, [0.0, np.nan]).holds


def test_command(tmp_path, monkeypatch, capsys):
    module = types.ModuleType("gflow.studies.example")
    module.STUDY = study()
    monkeypatch.setitem(sys.modules, "gflow.studies.example", module)
    monkeypatch.setitem(report.STUDIES, "example", "example")
    cli.main(["reproduce", "example", "--quick", "--out", str(tmp_path)])
    assert "2 of 3 claims hold" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["reproduce", "nothing", "--out", str(tmp_path)])
    assert "there is no study 'nothing'; choose among" in capsys.readouterr().err
