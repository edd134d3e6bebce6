"""All that says what a point of the sweep is. It travels to the workers."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..clocks import AbstractClock
from ..losses import AbstractLoss
from . import settings
from .axes import Axis, OWN


@dataclass(eq=False)
class Problem:
    """The arguments of `sweep`, checked. `traced` names the axes along which a compiled make_model takes arrays;
    `batch` is how many points a compiled program takes, and `width` how many data sets."""

    make_model: Callable[..., Any]
    axes: tuple[Axis, ...]
    data: tuple[tuple[Any, Any], ...]
    loss: AbstractLoss
    clock: AbstractClock
    stop: Any
    save: Any
    solver: Any
    rtol: float
    max_steps: int
    metrics: dict[str, Callable]
    digits: int | None
    batching: str | None
    variables: tuple["Variable", ...] = ()
    traced: tuple[str, ...] = ()
    batch: int = 1
    width: int = 1
    # Of a compiled make_model, by point; see `models`.
    compiled: dict[Any, Any] = field(default_factory=dict, repr=False)
    # Of models of each structure, what is not an array.
    rest: dict[Any, Any] = field(default_factory=dict, repr=False)
    settings: dict[str, Any] = field(default_factory=settings.current)
    takes_dim: bool = field(init=False)

    def __post_init__(self):
        self.takes_dim = "dim" not in {axis.name for axis in self.axes} and _takes(self.make_model, "dim")

    def __getstate__(self) -> dict[str, Any]:
        # Other processes compile for themselves.
        return self.__dict__ | {"compiled": {}, "rest": {}}

    @property
    def saves(self) -> int:
        return 1 if self.save is None else len(self.save)

    @property
    def losses(self) -> tuple[AbstractLoss, ...]:
        """All losses of the sweep."""
        return next((axis.values for axis in self.axes if axis.name == "loss"), (self.loss,))

    def value(self, name: str, index: Sequence[int] | np.ndarray, default: Any) -> Any:
        """The value of an axis at a point, or `default` where there is no such axis."""
        for axis, k in zip(self.axes, index, strict=True):
            if axis.name == name:
                return axis.values[k]
        return default

    def data_index(self, index: Sequence[int] | np.ndarray) -> int:
        return next((int(k) for axis, k in zip(self.axes, index, strict=True) if axis.name == "data"), 0)

    def loss_at(self, index: Sequence[int] | np.ndarray) -> AbstractLoss:
        return self.value("loss", index, self.loss)

    def arguments(self, index: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """What make_model gets at a point."""
        point = {a.name: a.values[k] for a, k in zip(self.axes, index, strict=True) if a.name not in OWN}
        X = self.data[self.data_index(index)][0]
        if self.takes_dim and np.ndim(X) == 2:
            point["dim"] = np.shape(X)[1]
        return point

    def model(self, index: Sequence[int] | np.ndarray) -> Any:
        """What make_model gives at a point."""
        return self.make_model(**self.arguments(index))

    def describe(self, index: Sequence[int] | np.ndarray) -> str:
        """A point in words."""
        return ", ".join(f"{a.name} = {a.labels[k]}" for a, k in zip(self.axes, index, strict=True))


@dataclass(frozen=True)
class Variable:
    """A variable of the result: what it has at each point."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    kind: type
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def dtype(self) -> Any:
        return np.dtypes.StringDType() if self.kind is str else np.dtype(self.kind)

    @property
    def missing(self) -> Any:
        return {float: np.nan, int: 0, str: ""}[self.kind]

    def empty(self, shape: Sequence[int]) -> np.ndarray:
        return np.full((*shape, *self.shape), self.missing, self.dtype)


def _takes(function: Callable, name: str) -> bool:
    if isinstance(function, functools.partial) and name in function.keywords:
        return False
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
