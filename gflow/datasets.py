"""Data to run the flow on: tables of two classes as a matrix X (N, d) and labels y in {-1, +1}.

Built in are `iris` (Fisher's, setosa against versicolor, N = 100, d = 4), `breast-cancer` (Wisconsin
diagnostic, N = 569, d = 30) and `toy` (three Gaussian points in six dimensions); anything else is a CSV file.
"""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

_BUILT_IN = ("iris", "breast-cancer", "toy")
_LABEL_NAMES = ("label", "y", "target", "class")


@dataclass(frozen=True, eq=False)
class Dataset:
    """A table of two classes.

    **Arguments:**

    - `X`: the features, one row per sample, shape `(N, d)`; the intercept, if any, is the last column.
    - `y`: the labels, -1.0 or +1.0, shape `(N,)`.
    - `feature_names`: the `d` names of the columns of `X`.
    - `name`: the built-in name, or the file's name without its extension.
    - `class_names`: what -1 and +1 stand for, in this order.
    - `dropped`: names of the constant columns that standardization left out.

    !!! example

        ```python
        >>> import numpy as np
        >>> from gflow.datasets import Dataset
        >>> X, y = np.array([[1.0, 2.0], [2.0, -1.0]]), np.array([1.0, -1.0])
        >>> print(Dataset(X, y, ("width", "height"), "mine", ("cat", "dog")))
        mine: N = 2, d = 2, -1 is cat (1 samples), +1 is dog (1 samples)

        ```
    """

    X: Float64[np.ndarray, "N d"]
    y: Float64[np.ndarray, " N"]
    feature_names: tuple[str, ...]
    name: str
    class_names: tuple[str, str]
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        (N, d), (negative, positive) = self.X.shape, self.class_names
        text = (
            f"{self.name}: N = {N}, d = {d}, -1 is {negative} ({np.sum(self.y < 0)} samples), "
            f"+1 is {positive} ({np.sum(self.y > 0)} samples)"
        )
        return text + (f", constant columns dropped: {', '.join(self.dropped)}" if self.dropped else "")


def load(
    name_or_path: str | os.PathLike[str],
    *,
    intercept: bool | None = None,
    standardize: bool | None = None,
    label: str | None = None,
) -> Dataset:
    """Load a built-in data set or a CSV file.

    A CSV file has a header line, one column of labels with exactly two values, and columns of finite
    numbers. The smaller label (as a number where both are numbers, else in alphabetical order) becomes -1,
    the larger +1.

    A linear model has no bias of its own, so by default a column of ones, named `intercept`, is appended
    after the other columns are standardized. It decides whether data can be separated: standardized
    `breast-cancer` is separable with it, by a margin of 4.3e-4 per unit of ℓ1 norm, and not separable
    without it.

    **Arguments:**

    - `name_or_path`: `"iris"`, `"breast-cancer"`, `"toy"`, or the path of a CSV file (`"./iris"` for a file
      of that name).
    - `intercept`: whether to append a column of ones. By default yes, except for `toy`.
    - `standardize`: whether to shift and scale every column to mean 0 and standard deviation 1 (with divisor
      `N`). Constant columns are then dropped, and named in `Dataset.dropped`. By default yes, except for
      `toy`.
    - `label`: the name of the CSV file's label column. By default the column named `label`, `y`, `target` or
      `class` in upper or lower case, else the last one.

    **Returns:**

    A [`gflow.datasets.Dataset`][].

    **Raises:**

    `FileNotFoundError` if there is no such built-in set or file, `ValueError` if the file is not such a
    table, and `ImportError` if `iris` or `breast-cancer` is asked for where scikit-learn is not installed.

    !!! example

        ```python
        >>> import gflow.datasets
        >>> print(gflow.datasets.load("iris"))
        iris: N = 100, d = 5, -1 is setosa (50 samples), +1 is versicolor (50 samples)
        >>> gflow.datasets.load("toy").X.shape
        (3, 6)

        ```

    ??? cite "References"

        Fisher, *The use of multiple measurements in taxonomic problems*, Annals of Eugenics 7 (1936).

        Street, Wolberg and Mangasarian, *Nuclear feature extraction for breast tumor diagnosis*, SPIE 1905
        (1993).
    """
    shown = repr(str(name_or_path))
    if name_or_path in _BUILT_IN:
        if label is not None:
            raise ValueError(f"label: got {label!r}, but {shown} is built in with its labels; leave it out.")
        name = str(name_or_path)
        X, y, names, classes = _toy() if name == "toy" else _sklearn(name)
    else:
        path = Path(name_or_path)
        name = path.stem
        X, y, names, classes = _csv(path, label)

    table = name_or_path != "toy"
    dropped: tuple[str, ...] = ()
    if table if standardize is None else standardize:
        X, names, dropped = _standardize(X, names)
        if not names:
            raise ValueError(f"name_or_path: every feature of {shown} is constant; give one that varies.")
    if table if intercept is None else intercept:
        if "intercept" in names:
            raise ValueError(
                f"intercept: {shown} already has a column 'intercept'; rename it or pass intercept=False."
            )
        X, names = np.hstack([X, np.ones((len(X), 1))]), (*names, "intercept")
    return Dataset(X, y, names, name, classes, dropped)


_Table = tuple[np.ndarray, np.ndarray, tuple[str, ...], tuple[str, str]]


def _toy() -> _Table:
    """More dimensions than samples, so that separable; the labels are those of a random direction."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3, 6))
    y = np.sign(X @ rng.normal(size=6))
    return X, y, tuple(f"x{i}" for i in range(6)), ("-1", "1")


def _sklearn(name: str) -> _Table:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            f"name_or_path: the data set {name!r} comes with scikit-learn; install gflow[data]."
        ) from error
    bunch: Any = datasets.load_iris() if name == "iris" else datasets.load_breast_cancer()
    two = bunch.target < 2  # of iris, leave out virginica: linearly it cannot be told from versicolor
    X = np.asarray(bunch.data[two], dtype=np.float64)
    y = np.where(bunch.target[two] == 0, -1.0, 1.0)
    negative, positive = (str(c) for c in bunch.target_names[:2])
    return X, y, tuple(map(str, bunch.feature_names)), (negative, positive)


def _csv(path: Path, label: str | None) -> _Table:
    if not path.is_file():
        raise FileNotFoundError(
            f"name_or_path: {str(path)!r} is neither a built-in set ({', '.join(_BUILT_IN)}) nor a file; "
            "check the spelling."
        )
    where = f"name_or_path: {str(path)!r}"
    try:
        # Cells as text, and blank lines kept: messages can then show what stands in the file, and where.
        cells = pd.read_csv(
            path, header=None, dtype=str, keep_default_na=False, skip_blank_lines=False, encoding="utf-8-sig"
        )
    except ValueError as error:  # the parser's and the decoder's errors too
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"{where} is no comma-separated table ({reason}); give every line as many cells as the header."
        ) from error
    cells = cells.fillna("").apply(lambda column: column.str.strip())
    cells = cells.loc[(cells != "").any(axis=1)]
    if cells.empty:
        raise ValueError(f"{where} is empty; give a header line and rows of data.")
    header, rows = tuple(map(str, cells.iloc[0])), cells.iloc[1:]

    _check_header(header, where)
    column = header.index(_label_column(header, label, where))
    if len(rows) < 2:
        raise ValueError(f"{where} has {len(rows)} row(s) of data; give at least two, one of each class.")

    def at(row: int, name: str) -> str:
        return f"{where}, line {rows.index[row] + 1}, column {name!r}"

    texts = [str(text) for text in rows.iloc[:, column]]
    if "" in texts:
        raise ValueError(f"{at(texts.index(''), header[column])} has no label; fill it in or drop the line.")
    y, classes = _signs(texts, f"{where}, column {header[column]!r}")

    names = header[:column] + header[column + 1 :]
    features = rows.drop(columns=column)
    X = features.map(_number).to_numpy(dtype=np.float64)
    for i, j in np.argwhere(~np.isfinite(X))[:1]:
        raise ValueError(
            f"{at(i, names[j])} holds {features.iat[i, j]!r} where a finite number is needed; "
            "correct the cell, or drop the line or the column."
        )
    return X, y, names, classes


def _check_header(header: tuple[str, ...], where: str) -> None:
    """Refuse what would make a column ambiguous or a line of data the header."""
    if len(header) == 1:
        raise ValueError(
            f"{where} has the one column {header[0]!r}; give comma-separated features and a column of labels."
        )
    if "" in header:
        raise ValueError(
            f"{where}, line 1, has no name for column {header.index('') + 1}; name or drop the column."
        )
    numbers = [name for name in header if math.isfinite(_number(name))]
    # Whole numbers are taken as names where a true name stands among them, as pandas writes unnamed columns.
    if len(numbers) == len(header) or any(not name.isdigit() for name in numbers):
        raise ValueError(
            f"{where}, line 1, holds the number {numbers[0]!r} where names are needed; add a header line."
        )
    for name in header:
        if header.count(name) > 1:
            raise ValueError(f"{where} has {header.count(name)} columns named {name!r}; rename or drop them.")


def _label_column(header: tuple[str, ...], label: str | None, where: str) -> str:
    if label is not None:
        if label not in header:
            raise ValueError(f"label: got {label!r}, but the columns are {_list(header)}; name one of them.")
        return label
    found = [name for name in header if name.lower() in _LABEL_NAMES]
    if len(found) > 1:
        raise ValueError(
            f"{where} may have its labels in {_list(found)}; choose one with label= and drop the rest."
        )
    return found[0] if found else header[-1]


def _signs(texts: list[str], where: str) -> tuple[np.ndarray, tuple[str, str]]:
    """Labels to -1 and +1, with what they were."""
    values: list = [_number(text) for text in texts]
    if not all(map(math.isfinite, values)):
        values = texts
    classes = sorted(set(values))
    if len(classes) != 2:
        shown = _list(texts[values.index(c)] for c in classes[:5]) + (", ..." if len(classes) > 5 else "")
        raise ValueError(
            f"{where} holds {len(classes)} distinct label(s), {shown}, where two are needed; "
            "keep the rows of two classes, or name another column with label=."
        )
    y = np.where([value == classes[0] for value in values], -1.0, 1.0)
    return y, (texts[values.index(classes[0])], texts[values.index(classes[1])])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _standardize(
    X: np.ndarray, names: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """The varying columns with mean 0 and deviation 1, their names, and the names of the constant ones."""
    constant = np.all(X == X[0], axis=0)
    X = X[:, ~constant]
    # A power of two, so exact: squares of 1e300 and 1e-300 would leave the range of float64.
    X = np.ldexp(X, -np.frexp(np.abs(X).max(axis=0))[1])
    X = X - X.mean(axis=0)
    kept = tuple(name for name, c in zip(names, constant, strict=True) if not c)
    return X / X.std(axis=0), kept, tuple(name for name in names if name not in kept)
