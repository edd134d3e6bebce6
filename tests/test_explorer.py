"""The explorer: what its page holds, where the numbers come from, and that it needs nothing from elsewhere."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from explorer_page import DECADES, LOST, made, page, SCALES

import gflow
from gflow import datasets, explorer, limits
from gflow.explorer.packing import pack
from gflow.explorer.plane import Plane

TOY = datasets.load("toy")
VOID = {"meta", "link", "input", "br", "img", "hr"}


@pytest.fixture(scope="module")
def ds():
    return made(TOY.X, TOY.y)


@pytest.fixture(scope="module")
def written():
    return page("toy")


class Reader(HTMLParser):
    """Notes elements that are not closed in order, attributes, and the text of scripts."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.scripts, self.text = [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.text += data


def test_page_is_whole_and_loads_nothing(written):
    text, _ = written
    reader = Reader(text)
    assert text.startswith("<!doctype html>") and reader.open == []
    assert "A <test> of toy" in reader.text and "toy: N = 3, d = 6" in reader.text and "{{" not in text
    ids = [value for _, name, value in reader.attributes if name == "id"]
    assert len(set(ids)) == len(ids)
    pointed = [value for _, name, value in reader.attributes if name in ("for", "aria-labelledby")]
    assert pointed and set(pointed) <= set(ids)
    assert [value for _, name, value in reader.attributes if name in ("src", "href", "action")] == ["data:,"]
    assert "://" not in text and "@import" not in text and re.findall(r"url\((?!#)", text) == []
    policy = next(value for _, name, value in reader.attributes if name == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none'")


def test_numbers_of_the_page_are_those_of_the_dataset(written, ds):
    """To six digits, as they were read back."""
    text, shown = written
    told = json.loads(Reader(text).scripts[0])
    assert told == json.loads(json.dumps(pack(shown)))
    shape = (2, SCALES.size, DECADES.size)
    read = lambda values, *more: np.array(values, float).reshape(*shape, *more)
    for name in ("excess_l1", "excess_l2", "distance_l2", "distance_Q_mu", "distance_l1", "log_time", "mu"):
        np.testing.assert_allclose(read(told["fields"][name]), ds[name].values, rtol=5.1e-6)
        assert None in told["fields"][name] or name == "mu"
    np.testing.assert_array_equal(read(told["weights"], 3), shown.weights.values.round(6))
    assert told["scale"] == SCALES.tolist() and told["decades"] == DECADES.tolist() and told["depth"] == [2, 3]
    assert told["sentences"][str(int(gflow.Status.max_steps))].startswith("The run used up max_steps")
    assert read(told["fields"]["log_time"])[*LOST].tolist()[3:] == pytest.approx([np.nan] * 3, nan_ok=True)


def test_contents_are_read_off_flows_and_limits(written, ds):
    _, shown = written
    at = {"depth": 3, "scale": 1.0, "decades": 30.0}
    beta, mu = ds.beta_over_gamma.sel(at).values, float(ds.mu.sel(at))
    path = limits.irreversible_path(TOY.X, TOY.y, mus=mu, depth=3).beta
    apart = np.linalg.norm(beta - path) / np.linalg.norm(path)
    assert float(shown.distance_irreversible.sel(at)) == pytest.approx(apart, rel=1e-6)
    margins = gflow.decades(30.0) * TOY.y * (TOY.X @ beta)
    share = np.exp(margins.min() - margins)
    np.testing.assert_allclose(shown.weights.sel(at), share / share.sum(), rtol=1e-6)
    l2, l1 = ds.l2_beta.values, ds.l1_beta.values
    np.testing.assert_allclose(shown.l2_place, 0.0, atol=1e-12)
    np.testing.assert_allclose(shown.l1_place, [1.0, 0.0], atol=1e-12)
    basis, unit = shown.plane_basis.values, np.linalg.norm(l1 - l2)
    np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(shown.place.sel(at), basis @ (beta - l2) / unit, rtol=1e-9)
    # Off the plane is what is left.
    left = np.linalg.norm(beta - l2 - unit * basis.T @ shown.place.sel(at).values) / np.linalg.norm(beta)
    assert float(shown.off_plane.sel(at)) == pytest.approx(left, rel=1e-6)
    assert float(shown.log_time_loss.sel(at)) == pytest.approx(-np.log10(gflow.decades(30.0)))  # at scale 1


def test_plane_of_points_on_a_line_or_at_one():
    line = Plane.through(np.zeros(3), np.array([2.0, 0.0, 0.0]), np.array([[1.0, 0.0, 0.0]]))
    np.testing.assert_array_equal(line.of(np.array([1.0, 5.0, 0.0])), [0.5, 0.0])
    same = Plane.through(np.ones(2), np.ones(2), np.array([[1.0, 3.0], [np.nan, 1.0]]))
    np.testing.assert_allclose(same.of(np.array([1.0, 3.0])), [np.sqrt(2), 0.0], atol=1e-12)
    alone = Plane.through(np.ones(1), np.ones(1), np.ones((1, 1)))
    np.testing.assert_array_equal(alone.of(np.array([2.0])), [0.0, 0.0])


def test_weights_of_rounding_are_not_shown():
    ds = made(TOY.X, TOY.y, depths=[2], scales=[1.0], decades=np.array([10.0, 1e14]))
    shown = explorer.contents(ds, TOY.X, TOY.y)
    known = shown.weights.notnull().all(("depth", "scale", "sample"))
    assert not known[1] and known[0]
    assert "The weights of the samples are not shown" in shown.attrs["notes"]
    assert shown.log_time_loss.sel(decades=1e14).isnull().all()


def test_limit_that_cannot_be_followed_is_said(ds, monkeypatch):
    def stuck(*_, **__):
        raise RuntimeError("irreversible_path could not follow the path below mu = 1.")

    monkeypatch.setattr(limits, "irreversible_path", stuck)
    shown = explorer.contents(ds.isel(depth=[0]), TOY.X, TOY.y)
    assert shown.distance_irreversible.isnull().all() and shown.distance_Q_mu.notnull().any()
    told = pack(shown)
    assert told["notes"][0] == "Depth 2: irreversible_path could not follow the path below mu = 1."
    assert set(told["curves"]["irreversible_curve"]) == {None}


def test_samples_of_little_weight_share_a_bar(written):
    _, shown = written
    weights = np.random.default_rng(0).dirichlet(np.full(40, 0.1), (2, SCALES.size, DECADES.size))
    many = shown.drop_dims("sample").assign(weights=(shown.weights.dims, weights))
    told = pack(many.assign_coords(label=("sample", np.ones(40))))
    assert set(told["samples"]) == set(np.argsort(-weights.max((0, 1, 2)))[:15]) and told["others"] == 25
    assert told["samples"] == sorted(told["samples"]) and len(told["labels"]) == 15
    listed = np.array(told["weights"]).reshape(-1, 15).sum(1)
    np.testing.assert_allclose(listed + told["other_weights"], 1.0, atol=2e-5)


def test_text_cannot_break_the_page(written):
    _, shown = written
    text = explorer.page(shown, title="</script><b>", about="{{data}} & <i>")
    reader = Reader(text)
    assert reader.open == [] and "</script><b>" in reader.text and "{{data}} & <i>" in reader.text


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda ds: (ds.drop_vars("mu"), TOY.X, TOY.y), "it has no 'mu'"),
        (lambda ds: (ds, TOY.X[:, :5], TOY.y), "d = 6, not of shapes"),
        (lambda ds: (ds, 2.0 * TOY.X, TOY.y), "their l2 max margin is another one"),
    ],
)
def test_bad_input(ds, change, message):
    with pytest.raises(ValueError, match=message):
        explorer.contents(*change(ds))


def test_bad_loss_and_page(ds):
    with pytest.raises(ValueError, match="loss must be the one that ds was computed with"):
        explorer.contents(ds, TOY.X, TOY.y, loss=gflow.losses.Logistic())
    with pytest.raises(ValueError, match=r"shown must be a Dataset of gflow\.explorer\.contents"):
        explorer.page(ds, title="", about="")


@pytest.mark.slow
def test_weights_are_those_of_verified_digits():
    """At the tolerance of the commands, as far as they are shown."""
    from gflow import precise, studies
    from gflow.studies.diagonal.problems import separable

    X, y, decades = separable(33), np.ones(4), np.array([1.0, 1e3, 1e6, 1e9])
    ds = studies.transition(X, y, depths=[2, 3], scales=[1.0, 100.0], decades=decades, workers=0, progress=False)
    shown = explorer.contents(ds, X, y)
    save = gflow.decades(decades).tolist()
    for depth in (2, 3):
        for scale in (1.0, 100.0):
            run = precise.diagonal_flow(
                X.tolist(), [1] * 4, depth=depth, scale=scale, stop=save[-1], save=save, digits=15
            )
            found = shown.weights.sel(depth=depth, scale=scale).values
            assert np.isfinite(found).all()
            np.testing.assert_allclose(found, run.weights.astype(float), atol=1e-3)
