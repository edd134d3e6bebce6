"""What a sweep runs over: named axes and the points of their grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..losses import AbstractLoss

# Axes that sweep itself takes; all others are arguments of make_model.
OWN = ("data", "loss", "rtol")


@dataclass(frozen=True, eq=False)
class Axis:
    """A dimension of the result: `values` as make_model gets them, `labels` as its coordinate.

    Real numbers are held in increasing order, so that neighbours cost about the same; `order[k]` is where the k-th
    value that the user gave stands.
    """

    name: str
    values: tuple[Any, ...]
    labels: np.ndarray
    order: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    @property
    def numeric(self) -> bool:
        return self.labels.dtype.kind in "iuf"


def axes_of(over: Any, taken: Sequence[str]) -> tuple[Axis, ...]:
    """The axes of `over`; `taken` are names that the result has for other things."""
    if not isinstance(over, Mapping) or not over:
        raise ValueError(
            f"over must be a dict of values for each dimension, such as {{'scale': [0.1, 1.0]}}, not {over!r}."
        )
    for name in over:
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"over must have names of arguments as keys, not {name!r}.")
        if name in taken:
            raise ValueError(f"over must not hold {name!r}: the result has a variable of this name; rename it.")
    return tuple(_axis(name, values) for name, values in over.items())


def _axis(name: str, values: Any) -> Axis:
    if isinstance(values, Mapping):
        labels, values = [str(key) for key in values], tuple(values.values())
    elif isinstance(values, str | bytes) or getattr(values, "ndim", 1) == 0 or not hasattr(values, "__len__"):
        raise ValueError(f"over[{name!r}] must be a list, an array or a dict of values, not {values!r}.")
    elif len(values) and all(isinstance(value, AbstractLoss) for value in values):
        labels = [type(value).__name__.lower() for value in values]
        values = tuple(values)
    else:
        try:
            labels = np.asarray(values)
        except ValueError:
            # Lists of several lengths.
            labels = np.asarray(values, object)
        if labels.dtype.kind == "f" and labels.dtype.itemsize > 8:
            labels = labels.astype(float)
        if labels.dtype.kind == "U" and not all(isinstance(value, str) for value in values):
            raise ValueError(f"over[{name!r}] must hold numbers or texts, not both: {list(values)}.")
        if labels.dtype.kind != "b" and any(isinstance(value, bool | np.bool_) for value in values):
            raise ValueError(f"over[{name!r}] must hold numbers or truth values, not both: {list(values)}.")
        if labels.ndim != 1 or labels.dtype.kind not in "biufU":
            raise ValueError(
                f"over[{name!r}] must hold numbers or texts; give other values names, as a dict of name: value."
            )
        values = tuple(labels.tolist())
    if not values:
        raise ValueError(f"over[{name!r}] must hold at least one value.")
    if isinstance(labels, list):
        labels = np.asarray(labels)
    if len(set(labels.tolist())) < len(values):
        named = "" if labels.dtype.kind in "biuf" else ", or other names, as a dict of name: value"
        raise ValueError(f"over[{name!r}] must hold every value once{named}, not {labels.tolist()}.")
    if labels.dtype.kind == "f" and not np.all(np.isfinite(labels)):
        raise ValueError(f"over[{name!r}] must be finite, not {labels.tolist()}.")
    order = np.arange(len(values))
    if labels.dtype.kind == "f":
        rank = np.argsort(labels, kind="stable")
        labels, values, order = labels[rank], tuple(values[k] for k in rank), np.argsort(rank, kind="stable")
    if labels.dtype.kind == "U":
        if any("\0" in label or not _encodes(label) for label in labels.tolist()):
            raise ValueError(f"over[{name!r}] must hold texts that UTF-8 can hold, without NUL: {labels.tolist()}.")
        labels = labels.astype(np.dtypes.StringDType())
    _check_own(name, values, labels)
    return Axis(name, values, labels, order)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_own(name: str, values: tuple, labels: np.ndarray) -> None:
    if name == "loss" and not all(isinstance(value, AbstractLoss) for value in values):
        raise ValueError("over['loss'] must hold gflow losses such as gflow.losses.Logistic(), as a list or a dict.")
    if name == "rtol" and not (labels.dtype.kind == "f" and np.all((labels >= 1e-13) & (labels <= 0.1))):
        raise ValueError(f"over['rtol'] must hold numbers between 1e-13 and 0.1, not {labels.tolist()}.")
    if name == "data" and not all(hasattr(v, "X") or (isinstance(v, Sequence) and len(v) == 2) for v in values):
        raise ValueError("over['data'] must be a dict of name: (X, y), or of name: data set from gflow.datasets.")
