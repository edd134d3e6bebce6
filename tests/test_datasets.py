import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linprog

from gflow import datasets
from gflow.datasets import load


def l1_margin(X, y):
    """max over ‖β‖₁ = 1 of min_n y_n x_n·β, or 0 if no β separates."""
    A = y[:, None] * X
    solution = linprog(np.ones(2 * X.shape[1]), A_ub=np.hstack([-A, A]), b_ub=-np.ones(len(y)))
    return 1 / solution.fun if solution.status == 0 else 0.0


@pytest.fixture
def table(tmp_path):
    def write(text):
        path = tmp_path / "table.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_iris():
    iris = load("iris")
    assert iris.X.shape == (100, 5) and iris.X.dtype == np.float64
    assert iris.y.dtype == np.float64 and np.array_equal(iris.y, np.repeat([-1.0, 1.0], 50))
    assert iris.class_names == ("setosa", "versicolor")
    assert iris.feature_names[0] == "sepal length (cm)" and iris.feature_names[-1] == "intercept"
    assert load("iris", standardize=False, intercept=False).X[0].tolist() == [5.1, 3.5, 1.4, 0.2]
    assert l1_margin(iris.X, iris.y) > 0.1


def test_breast_cancer_is_separable_with_the_intercept_only():
    cancer = load("breast-cancer")
    assert cancer.X.shape == (569, 31)
    assert cancer.class_names == ("malignant", "benign") and np.sum(cancer.y < 0) == 212
    assert l1_margin(cancer.X, cancer.y) == pytest.approx(4.338e-4, rel=1e-3)
    plain = load("breast-cancer", intercept=False)
    assert plain.X.shape == (569, 30)
    assert l1_margin(plain.X, plain.y) == 0


def test_toy_is_used_as_it_is():
    toy = load("toy")
    assert toy.X.shape == (3, 6) and toy.y.tolist() == [1, 1, -1]
    assert toy.X[0, 0] == pytest.approx(0.12573022, rel=1e-7)
    assert l1_margin(toy.X, toy.y) > 0.1
    assert load("toy", intercept=True, standardize=True).X.shape == (3, 7)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    message = "name_or_path: the data set 'iris' comes with scikit-learn; install gflow[data]."
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        load("iris")
    assert load("toy").name == "toy"


def test_does_not_import_jax():
    code = (
        "import importlib.util, sys;"
        f"spec = importlib.util.spec_from_file_location('datasets', {datasets.__file__!r});"
        "sys.modules['datasets'] = module = importlib.util.module_from_spec(spec);"
        "spec.loader.exec_module(module);"
        "module.load('iris');"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_csv(table):
    data = load(table("a,b,label\n1, 10,cat\n\n2,20 ,dog\n6,60,cat\n"), standardize=False)
    assert data.X.tolist() == [[1, 10, 1], [2, 20, 1], [6, 60, 1]]
    assert data.y.tolist() == [-1, 1, -1]
    assert data.feature_names == ("a", "b", "intercept")
    assert data.class_names == ("cat", "dog") and data.name == "table"
    assert str(data) == "table: N = 3, d = 3, -1 is cat (2 samples), +1 is dog (1 samples)"


def test_csv_as_other_programs_write_it(table):
    text = '\ufeff"width, cm";Class\r\n"1.5";no\r\n2.5;yes\r\n'.replace(";", ",")
    data = load(table(text), intercept=False)
    assert data.feature_names == ("width, cm",) and data.class_names == ("no", "yes")
    assert data.X.tolist() == [[-1], [1]]


def test_numbers_are_rounded_correctly(table):
    text = "0.30000000000000004441"
    assert load(table(f"x,y\n{text},0\n1,1\n"), standardize=False).X[0, 0] == 0.30000000000000004


@pytest.mark.parametrize(
    "header, label, features",
    [
        ("a,label,c", None, ("a", "c")),
        ("Y,b,c", None, ("b", "c")),
        ("a,TARGET,c", None, ("a", "c")),
        ("a,b,c", None, ("a", "b")),
        ("a,b,c", "a", ("b", "c")),
        ("label,b,y", "y", ("label", "b")),
        ("0,1,label", None, ("0", "1")),
    ],
)
def test_which_column_is_the_label(table, header, label, features):
    data = load(table(f"{header}\n1,2,3\n4,5,6\n"), label=label, intercept=False)
    assert data.feature_names == features


@pytest.mark.parametrize(
    "labels, y, classes",
    [
        (["1", "-1", "1"], [1, -1, 1], ("-1", "1")),
        (["10", "9", "10.0"], [1, -1, 1], ("9", "10")),  # as numbers: "10" < "9" as text
        (["b", "a", "b"], [1, -1, 1], ("a", "b")),
        (["True", "False", "True"], [1, -1, 1], ("False", "True")),
        (["NA", "1", "NA"], [1, -1, 1], ("1", "NA")),
    ],
)
def test_labels(table, labels, y, classes):
    data = load(table("x,y\n" + "".join(f"{i},{t}\n" for i, t in enumerate(labels))))
    assert data.y.tolist() == y and data.class_names == classes


def test_constant_columns(table):
    path = table("a,one,b,y\n1,0.1,3,0\n2,0.1,5,1\n4,0.1,4,1\n")
    data = load(path, intercept=False)
    assert data.feature_names == ("a", "b") and data.dropped == ("one",) and data.X.shape == (3, 2)
    assert str(data).endswith(", constant columns dropped: one")
    kept = load(path, intercept=False, standardize=False)
    assert kept.feature_names == ("a", "one", "b") and kept.dropped == ()


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(arrays(np.float64, st.tuples(st.integers(2, 8), st.integers(1, 4)), elements=finite))
def test_standardized_columns_have_mean_0_and_deviation_1(X):
    """Whatever their range: 5e-324 and 1e308 neither underflow nor overflow."""
    Z, kept, dropped = datasets._standardize(X, tuple(map(str, range(X.shape[1]))))
    assert len(kept) + len(dropped) == X.shape[1] and Z.shape == (len(X), len(kept))
    np.testing.assert_allclose(Z.std(axis=0), 1, rtol=1e-12)
    np.testing.assert_allclose(Z.mean(axis=0), 0, atol=1e-12)


PATH = "<path>"
BAD = {
    "ragged": (
        "a,y\n1,0\n2,1,3\n",
        {},
        "name_or_path: '<path>' is no comma-separated table (Error tokenizing data. C error: Expected 2 "
        "fields in line 3, saw 3); give every line as many cells as the header.",
    ),
    "empty file": (
        "",
        {},
        "name_or_path: '<path>' is no comma-separated table (No columns to parse from file); "
        "give every line as many cells as the header.",
    ),
    "blank lines only": (
        ",\n,\n",
        {},
        "name_or_path: '<path>' is empty; give a header line and rows of data.",
    ),
    "short line": (
        "y,a\n1,2\n0\n",
        {},
        "name_or_path: '<path>', line 3, column 'a' holds '' where a finite number is needed; "
        "correct the cell, or drop the line or the column.",
    ),
    "missing value after a blank line": (
        "a,b,y\n1,2,0\n\n3,,1\n",
        {},
        "name_or_path: '<path>', line 4, column 'b' holds '' where a finite number is needed; "
        "correct the cell, or drop the line or the column.",
    ),
    "text": (
        "a,b,y\n1,2,0\nred,4,1\n",
        {},
        "name_or_path: '<path>', line 3, column 'a' holds 'red' where a finite number is needed; "
        "correct the cell, or drop the line or the column.",
    ),
    "infinite": (
        "a,b,y\n1,inf,0\n3,4,1\n",
        {},
        "name_or_path: '<path>', line 2, column 'b' holds 'inf' where a finite number is needed; "
        "correct the cell, or drop the line or the column.",
    ),
    "missing label": (
        "a,y\n1,0\n2,\n",
        {},
        "name_or_path: '<path>', line 3, column 'y' has no label; fill it in or drop the line.",
    ),
    "no rows": (
        "a,y\n",
        {},
        "name_or_path: '<path>' has 0 row(s) of data; give at least two, one of each class.",
    ),
    "one class": (
        "a,y\n1,0\n2,0\n",
        {},
        "name_or_path: '<path>', column 'y' holds 1 distinct label(s), '0', where two are needed; "
        "keep the rows of two classes, or name another column with label=.",
    ),
    "many classes": (
        "a,y\n" + "".join(f"{i},c{i}\n" for i in range(7)),
        {},
        "name_or_path: '<path>', column 'y' holds 7 distinct label(s), 'c0', 'c1', 'c2', 'c3', 'c4', "
        "..., where two are needed; keep the rows of two classes, or name another column with label=.",
    ),
    "no such label column": (
        "a,y\n1,0\n2,1\n",
        {"label": "kind"},
        "label: got 'kind', but the columns are 'a', 'y'; name one of them.",
    ),
    "two label columns": (
        "y,a,Label\n1,0,1\n2,1,1\n",
        {},
        "name_or_path: '<path>' may have its labels in 'y', 'Label'; "
        "choose one with label= and drop the rest.",
    ),
    "duplicate names": (
        "a,a,y\n1,0,1\n2,1,0\n",
        {},
        "name_or_path: '<path>' has 2 columns named 'a'; rename or drop them.",
    ),
    "nameless column": (
        ",a,y\n0,1,0\n1,2,1\n",
        {},
        "name_or_path: '<path>', line 1, has no name for column 1; name or drop the column.",
    ),
    "one column": (
        "a;y\n1;0\n2;1\n",
        {},
        "name_or_path: '<path>' has the one column 'a;y'; "
        "give comma-separated features and a column of labels.",
    ),
    "no header": (
        "5.1,3.5,setosa\n7.0,3.2,versicolor\n",
        {},
        "name_or_path: '<path>', line 1, holds the number '5.1' where names are needed; add a header line.",
    ),
    "no header, whole numbers": (
        "5,3,1\n7,3,0\n",
        {},
        "name_or_path: '<path>', line 1, holds the number '5' where names are needed; add a header line.",
    ),
    "all constant": (
        "a,y\n1,0\n1,1\n",
        {},
        "name_or_path: every feature of '<path>' is constant; give one that varies.",
    ),
    "intercept twice": (
        "a,intercept,y\n1,1,0\n2,1,1\n",
        {"standardize": False},
        "intercept: '<path>' already has a column 'intercept'; rename it or pass intercept=False.",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(table, case):
    text, options, message = BAD[case]
    path = table(text)
    with pytest.raises(ValueError) as error:
        load(path, **options)
    assert str(error.value).replace(str(path), PATH) == message


def test_not_text(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"a,y\n\xff,0\n1,1\n")
    with pytest.raises(ValueError, match=r"is no comma-separated table .*can't decode byte 0xff"):
        load(path)


def test_bad_names(tmp_path):
    message = (
        "name_or_path: 'irris' is neither a built-in set (iris, breast-cancer, toy) nor a file; "
        "check the spelling."
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        load("irris")
    with pytest.raises(FileNotFoundError, match="nor a file"):
        load(Path(tmp_path))
    message = "label: got 'y', but 'toy' is built in with its labels; leave it out."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load("toy", label="y")
