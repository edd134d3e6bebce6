"""Bad input to `gflow.precise` gets one sentence that names the argument, its value and the remedy."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest

from gflow import precise
from gflow.precise.exact import decades, evaluate, rational
from gflow.precise.separability import gordan_weights

X, y = [[1, 2], [2, -1]], [1, 1]
GOOD = {"X": X, "y": y, "stop": 10, "digits": 20}

BAD = [
    ({"digits": 14}, "digits must be an integer from 15 to 1,000,000, not 14; gflow.gradient_flow gives fewer."),
    ({"digits": 20.5}, "digits must be an integer from 15 to 1,000,000, not 20.5; gflow.gradient_flow gives fewer."),
    ({"digits": "9"}, "digits must be an integer from 15 to 1,000,000, not '9'; gflow.gradient_flow gives fewer."),
    ({"digits": True}, "digits must be an integer from 15 to 1,000,000, not True; gflow.gradient_flow gives fewer."),
    ({"depth": 1}, "depth must be an integer of at least 2, not 1."),
    ({"depth": 2.5}, "depth must be an integer of at least 2, not 2.5."),
    ({"scale": 0}, "scale must be positive, not 0."),
    ({"scale": "-1/8"}, "scale must be positive, not -1/8."),
    ({"scale": [1, 2, 3]}, "scale must be one number or one per column of X, that is 2, not 3."),
    ({"scale": "tiny"}, "scale must hold finite numbers, each an int, float, Fraction, mpf or a text such as '1/8' or "
     "'1e100', not 'tiny'."),
    ({"scale": "1/0"}, "scale must hold finite numbers, each an int, float, Fraction, mpf or a text such as '1/8' or "
     "'1e100', not '1/0'."),
    ({"X": [[1, np.nan], [2, 1]]}, "X must hold finite numbers, each an int, float, Fraction, mpf or a text such as "
     "'1/8' or '1e100', not nan."),
    ({"X": [[1, 2], [3]]}, "X must have rows of one length, not of lengths [1, 2]."),
    ({"X": []}, "X must hold at least one sample and one feature, not shape (0, 0)."),
    ({"X": 5}, "X must be a table of N rows of d numbers and y a list of N, not 5 and [1, 1]."),
    ({"y": [1]}, "y must have one entry per row of X, that is 2, not 1."),
    ({"y": [1, 2]}, "y must hold labels -1 and +1, but it holds 2; map your classes to -1 and +1."),
    ({"stop": 0}, "stop must lie above the start, -log L = 0, but it is 0."),
    ({"stop": "-1e50"}, "stop must lie above the start, -log L = 0, but it is -1.00000e+50."),
    ({"stop": "1e"}, "stop must hold finite numbers, each an int, float, Fraction, mpf or a text such as '1/8' or "
     "'1e100', not '1e'."),
    ({"stop": None}, "stop or save must be given, as values of -log L."),
    ({"save": [3, 2]}, "save must be strictly increasing; sort it and drop repeated values."),
    ({"save": [3, 20]}, "save must not go beyond stop, but 20.0000 does; raise stop."),
    ({"save": []}, "save must hold at least one value of -log L, or be left out."),
    ({"save": 3}, "save must be a list of values of -log L, not 3."),
    ({"loss": "hinge"}, "loss must be 'exponential', 'logistic' or 'square', not 'hinge'."),
    ({"reduction": "median"}, "reduction must be 'mean' or 'sum', not 'median'."),
    ({"X": [[1], [2]], "y": [1, -1]}, "X and y cannot be separated: a convex combination of the margins of samples "
     "[0, 1] is 0 for every beta, so the loss has a positive lower bound; add features or an intercept, or remove "
     "samples."),
]  # fmt: skip


@pytest.mark.parametrize(("change", "sentence"), BAD, ids=[next(iter(c)) + str(k) for k, (c, _) in enumerate(BAD)])
def test_one_sentence(change, sentence):
    with pytest.raises(ValueError) as caught:
        precise.diagonal_flow(**(GOOD | change))
    assert str(caught.value) == sentence


def test_the_logistic_loss_starts_elsewhere():
    with pytest.raises(ValueError) as caught:
        precise.diagonal_flow(X, y, loss="logistic", stop="0.36", digits=20)
    assert str(caught.value) == "stop must lie above the start, -log L = 0.366513, but it is 0.360000."


def test_separability_is_decided_exactly():
    """Two rows opposite up to 1e-40 can be separated; opposite rows cannot."""
    nearly = [["1", "1"], ["-1", "-0.9999999999999999999999999999999999999999"]]
    assert gordan_weights([[rational(v, "X") for v in row] for row in nearly]) is None
    with pytest.raises(ValueError, match="cannot be separated"):
        precise.diagonal_flow([["1", "1"], ["-1", "-1"]], [1, 1], stop="1/10", digits=15)
    with pytest.raises(ValueError, match="cannot be separated"):
        precise.diagonal_flow([["1e-400", "0"], ["-1e400", "0"]], [1, 1], stop="1/10", digits=15)


def test_the_proof_of_no_separation_is_exact():
    rng = np.random.default_rng(5)
    for n, d in ((4, 2), (6, 3), (9, 4)):
        rows = [[rational(int(v), "X") for v in row] for row in rng.integers(-4, 5, size=(n, d))]
        weights = gordan_weights(rows)
        if weights is None:
            continue
        assert sum(weights) == 1 and all(w >= 0 for w in weights)
        assert all(sum(w * row[i] for w, row in zip(weights, rows, strict=True)) == 0 for i in range(d))


def test_numbers_are_taken_exactly():
    assert rational("1/8", "v") == rational(0.125, "v") == rational(Fraction(1, 8), "v") == rational("0.125", "v")
    assert rational(0.1, "v") != rational("0.1", "v") and rational(np.float64(0.5), "v") == rational(" 1 / 2 ", "v")
    assert rational(np.int64(3), "v") == rational(mpmath.mpf(3), "v") == rational("3e0", "v")
    with mpmath.mp.workdps(60):
        assert rational(mpmath.mpf(1) / 3, "v").q != 3
        assert abs(mpmath.mpf(str(evaluate(decades(3)).mid().str(15, radius=False))) - 3 * mpmath.log(10)) < 1e-12
    with pytest.raises(ValueError, match="not True"):
        rational(True, "v")
    with pytest.raises(ValueError, match="inf"):
        rational(mpmath.inf, "v")
