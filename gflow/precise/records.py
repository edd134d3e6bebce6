"""What a run leaves behind: states, the steps between them, and the settings they were made with."""

from dataclasses import dataclass, field

from flint import arb, arb_mat

from .grids import LossGrid, TimeGrid
from .network import Place
from .stages import Stages
from .tableau import Tableau


@dataclass(eq=False)
class State:
    """A point of the flow. `record` is the step that led here; log t follows from it when asked for,
    moved on by `late` in tau and `ahead` in gamma."""

    z: list[arb]
    place: Place
    gamma: arb
    tau: arb
    weights: list[arb]
    record: "Record | None" = None
    late: arb = field(default_factory=arb)
    ahead: arb = field(default_factory=arb)

    @property
    def step(self) -> "Record":
        assert self.record is not None
        return self.record


@dataclass(eq=False)
class Record:
    """An accepted step."""

    grid: LossGrid | TimeGrid
    tableau: Tableau
    before: State
    stages: Stages
    values: list[arb]
    polynomial: arb_mat
    sizes: list[float]
    asleep: list[int]
    left_out: list[int]
    error: float
    time_factor: arb | None = None
    deeper: float = 0.0


@dataclass(eq=False)
class Settings:
    """Order and accuracy of a run in decimal digits: `digits` carried, `tolerance` of rates on a step, and at saves."""

    stages: int
    digits: float
    tolerance: float
    at_saves: float


@dataclass(eq=False)
class Path:
    records: list[Record] = field(default_factory=list)
    counts: dict[str, int] = field(
        default_factory=lambda: {"steps": 0, "rejections": 0, "newton": 0, "factorizations": 0, "bits": 0}
    )

    def find(self, grid: LossGrid | TimeGrid, nodes: list[arb]) -> list[tuple[Record, arb]] | None:
        """The step and position in it of every node, if steps of the same clock hold them all."""
        found, index = [], 0
        loss = isinstance(grid, LossGrid)
        points = grid.points(nodes)
        low, high = 0, len(self.records) - 1
        while low < high:
            middle = (low + high + 1) // 2
            before = self.records[middle].before
            if (before.gamma if loss else before.tau) <= points[0]:
                low = middle
            else:
                high = middle - 1
        index = low
        for value in points:
            while index < len(self.records):
                record = self.records[index]
                held = value <= record.grid.end or index == len(self.records) - 1
                if held and isinstance(record.grid, LossGrid) is loss:
                    break
                index += 1
            else:
                return None
            position = record.grid.position(value)
            if not (position > -0.01 and position < 1.01):
                return None
            found.append((record, position))
        return found


class Stuck(Exception):
    """The steps shrank to nothing; `path` and `saves` hold the run so far."""
