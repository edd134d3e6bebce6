"""One run: collocation steps along the flow, dense output, and states at the save points.

A step is accepted where the last Legendre coefficients of dz/ds are below the tolerance, both relative to dz/ds and in
what they do to beta. The first guess of the stages is the polynomial of the step before, continued up to the degree
that helps; a run that repeats another one (`seed`) takes it from there. States at save points come from a collocation
step of their own that starts where the step around them does, so saving does not change the path.
"""

import bisect
import functools
import math
from collections.abc import Callable
from typing import Any, cast

from flint import arb, arb_mat, ctx

from . import waking
from .errors import gamma_error, rate_error
from .exact import exact_sum, LOG2_10, log10, logs
from .grids import LossGrid, TimeGrid
from .matrix import Failure
from .network import DualNetwork, Place
from .records import Path, Record, Settings, State, Stuck
from .stages import solve, Stages, TooRough
from .tableau import radau, Tableau, useful_degree


class Run:
    """Integrate from gamma of the start to the last of `points`."""

    def __init__(
        self,
        network: DualNetwork,
        problem: Any,
        settings: Settings,
        seed: Path | None = None,
        report: Callable[[float], None] = lambda gamma: None,
    ):
        self.network, self.problem, self.settings, self.seed, self.report = network, problem, settings, seed, report
        self.path = Path()
        self.saves: list[State] = []
        self.height = self.extra = self.lost = 0.0
        self.tolerance = settings.tolerance

    def set_precision(self, height: float) -> Tableau:
        """Enough bits for margins of 10^height to have their digits behind the point."""
        bits = int(LOG2_10 * (self.settings.digits + max(height, 0.0))) + 16
        ctx.prec = bits
        self.path.counts["bits"] = max(self.path.counts["bits"], bits)
        self.network.refresh(bits)
        self.problem.refresh()
        return radau(self.settings.stages, bits)

    def start(self) -> State:
        self.set_precision(0.0)
        network = self.network
        place = network.start()
        margins = [arb(0)] * network.samples
        gamma = self.problem.gamma(margins).mid()
        zeros = [arb(0)] * network.samples
        return State(zeros, place, gamma, arb(0), self.problem.log_weights(margins, gamma))

    def solve(self, values: list[Any]) -> list[State]:
        """States at the points `values`: functions that give gamma at the working precision."""
        self.set_precision(0.0)
        self.height = log10(values[-1]())
        state, pending, size = self.start(), 0, None
        while pending < len(values):
            state, size = self._advance(state, size, values[-1])
            self.report(float(log10(state.gamma)) if state.gamma > 0 else -math.inf)
            while pending < len(values) and (target := values[pending]()) <= state.gamma:
                self.saves.append(self._save(target, state))
                pending += 1
        return self.saves

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _advance(self, state: State, size: float | None, last: Callable[[], arb]) -> tuple[State, float]:
        """An accepted step, and the size to try next."""
        on_loss, self.lost = self.problem.prefers_loss(self, state), self.problem.begin(state)
        # Errors contract on the loss clock. At saddles they grow.
        calm = on_loss or (self.problem.exponential and self.network.depth == 2)
        self.tolerance = self.settings.tolerance if calm else self.settings.at_saves
        if state.record is None or isinstance(state.record.grid, LossGrid) is not on_loss:
            size = None
        failures = 0
        self.set_precision(log10(state.gamma) if on_loss else 0.0)
        asleep = waking.sleepers(state.weights) if on_loss else []
        limits = waking.limits(self, state, asleep, self.tolerance) if on_loss else waking.Limits()
        while failures < 400:
            grid, tableau, size = self._propose(state, on_loss, size, last, limits)
            limits.start = None
            state = self._deepen(state, grid)
            inspect = functools.partial(self._hopeless, state, tableau)
            try:
                guess = self._guess(state, grid, tableau)
                new, error = self._solve(state, grid, tableau, guess, asleep, inspect)
                for _ in range(20 if asleep else 0):
                    end = waking.wake(new.step, asleep, self.tolerance)
                    if end is None:
                        break
                    grid = cast(LossGrid, grid).cut(end)
                    size = float((grid.length / state.gamma).log1p())
                    new, error = self._part(new.step, grid)
                if waking.wakes(new.weights, asleep):
                    raise Failure("a sample woke up on the way")
            except TooRough as rough:
                error = rough.error
            except Failure:
                self.path.counts["rejections"] += 1
                failures += 1
                shrink = 0.3 if failures < 4 else 0.1
                size = size * shrink if on_loss else size + math.log(shrink)
                continue
            else:
                if error + self.tolerance < 0.5:
                    self.path.counts["steps"] += 1
                    self.path.records.append(new.step)
                    room = -error - self.tolerance
                    rounding = error < -self.settings.digits - 1.0
                    if failures == 0 and rounding and (reach := self._reach(new.step.sizes)) > 0:
                        return new, self._resize(grid, size, reach * (self.settings.stages - 0.5), 1e15, 1.0)
                    if failures == 0 and (before := state.record) is not None and type(before.grid) is type(grid):
                        # What the last two steps foretell (Gustafsson 1994, doi 10.1145/198429.198437).
                        lengthened = log10(grid.length) - log10(before.grid.length)
                        room = min(room, room + before.error - error + lengthened * (self.settings.stages - 0.5))
                    return new, self._resize(grid, size, room, 4.0 if failures == 0 else 1.0, 0.2)
            self.path.counts["rejections"] += 1
            failures += 1
            size = self._resize(grid, size, -error - self.tolerance, 0.7, 0.1)
        raise Stuck

    def _hopeless(self, state: State, tableau: Tableau, E: list[arb], known: float) -> None:
        """Give up a step early, once its rates are known well enough to see that it is too long."""
        if known + self.tolerance < -3.0:
            return
        error = rate_error(self.network, self.problem, state.place, state.place, tableau, E)
        if error > max(known + 3.0, 2.0 - self.tolerance):
            raise TooRough(error)

    def _propose(
        self, state: State, on_loss: bool, size: float | None, last: Callable[[], arb], limits: waking.Limits
    ) -> tuple[LossGrid | TimeGrid, Tableau, float]:
        """The grid of the next step; `size` is log(gamma ratio), or log of the length in tau."""
        if on_loss:
            self.extra = 0.0
            size = 0.1 if size is None else size
            if state.gamma < 10 * self.settings.stages**2:
                # Physical time is not slaved to gamma yet; its equation has to be resolved as well.
                size = min(size, 0.7)
            here = log10(state.gamma)
            # Distances to a pole shrink by gamma^-kappa, and their relative accuracy is that of margins.
            there = min(here + size / math.log(10.0), self.height)
            tableau = self.set_precision(there + float(self.problem.exponent) * (there - here))
            stop, end = last(), limits.apply(state.gamma, (state.gamma * arb(size).expm1()).mid())
            # Not so near to the end that the last step would be tiny.
            if end > stop or (stop - end) < (end - state.gamma) * arb("0.05"):
                end = stop
            size = float(((end - state.gamma) / state.gamma).log1p())
            return LossGrid(state.gamma, end, self.problem.offset, self.problem.kappa), tableau, size
        length: float = self.problem.first_length(self, state) if size is None else size
        # A coordinate on its way to a pole stops before it, by a factor at a time.
        pole = self._log_time_to_pole(state)
        rooms = min(log10(v) for v in self.network.spread(state.place))
        if length > pole - 0.5:
            length, rooms = min(length, pole - 1e-5), rooms - 5.0
        # A long wait near a pole: increments of x that nearly cancel must be right beside the distance to it.
        self.extra = max(0.0, length / math.log(10.0) + log10(self.problem.unit) - rooms)
        height = log10(state.gamma) if state.gamma > 0 else 0.0
        tableau = self.set_precision(height + self.extra + self.lost)
        return TimeGrid(state.tau, arb(length).exp().mid()), tableau, length

    def _log_time_to_pole(self, state: State) -> float:
        """log of the time in which the first coordinate would reach its pole at constant rates; inf for D = 2."""
        network = self.network
        if network.depth == 2:
            return math.inf
        push = (arb_mat(1, network.samples, self.problem.velocity(state.weights)) * network.X).mid().entries()
        sides = [p if g > 0 else m for p, m, g in zip(state.place.plus, state.place.minus, push, strict=True)]
        times = [log10(r) - log10(g) for r, g in zip(sides, push, strict=True) if log10(g) > -1e6]
        return (min(times, default=math.inf) - math.log10(network.pull)) * math.log(10.0)

    def _resize(self, grid: Any, size: float, room: float, most: float, least: float) -> float:
        """The size at which the error would be at the tolerance, from `room` decades between the two."""
        room = (room - 0.3) / (self.settings.stages - 0.5)
        factor = min(max(10.0 ** min(max(room, -6.0), 15.0), least), most)
        if isinstance(grid, TimeGrid):
            return size + math.log(factor)
        return size * factor

    def _reach(self, sizes: list[float]) -> float:
        """log10 of the factor by which a step may grow whose last coefficients are rounding errors.

        Legendre coefficients c_k of a smooth function fall like r^k, r in proportion to the step.
        """
        noise = 6.0 - self.settings.digits
        rates = [(c - max(sizes[0], 0.0)) / k for k, c in enumerate(sizes) if k > 0 and c > noise]
        rate = max(rates, default=noise)
        return -0.8 * self.tolerance / self.settings.stages - rate

    def _guess(self, state: State, grid: Any, tableau: Tableau) -> list[arb]:
        if self.seed is not None and self._repeats(grid):
            found = self.seed.find(grid, tableau.nodes)
            if found is not None:
                return self._interpolate(found, grid)
        record = state.record
        if record is None or type(record.grid) is not type(grid):
            return self.problem.first_guess(self, state, grid, tableau)
        place_in: Any = record.grid.positions
        positions = place_in(grid, tableau.nodes)
        degree = useful_degree(record.sizes, 2 * float(positions[-1]) - 1)
        coefficients = arb_mat(record.polynomial.tolist()[: degree + 1])
        guess = self.problem.restore(record.tableau.evaluate(coefficients, positions), grid)
        # Where a weight is nothing its logarithm may be a wild function of v: its last value does.
        n = self.network.samples
        top = max(range(n), key=lambda k: float(state.weights[k]))
        for k in record.asleep:
            below = state.weights[k] - state.weights[top]
            guess[k::n] = [(v + below).mid() for v in guess[top::n]]
        return guess

    def _repeats(self, grid: LossGrid | TimeGrid) -> bool:
        """Whether the solution before is near on the scale of a step: kinks are known to an error relative to gamma."""
        if isinstance(grid, TimeGrid):
            # Beside a pole two solutions are a little apart in time, and that is everything.
            return self.network.depth == 2
        return log10(grid.start + 1) - log10(grid.length) < self.tolerance - 15.0

    def _interpolate(self, found: list[tuple[Record, arb]], grid: Any) -> list[arb]:
        guess: list[arb] = []
        start = 0
        while start < len(found):
            record = found[start][0]
            stop = start
            while stop < len(found) and found[stop][0] is record:
                stop += 1
            values = record.tableau.evaluate(record.polynomial, [p for _, p in found[start:stop]])
            part = self.problem.restore(values, grid)
            n, nodes = self.network.samples, [float(c) for c in record.tableau.nodes]
            for k in record.asleep:
                near = [min(bisect.bisect_left(nodes, float(p)), len(nodes) - 1) for _, p in found[start:stop]]
                part[k::n] = self.problem.restore([record.values[j * n + k] for j in near], grid)
            guess += part
            start = stop
        return guess

    def _solve(
        self, state: State, grid: Any, tableau: Tableau, guess: list[arb], left_out: list[int], inspect: Any = None,
        deeper: float = 0.0,
    ) -> tuple[State, float]:  # fmt: skip
        """The state at the end of a step, and the error of the step."""
        clock = grid.clock(tableau.nodes)
        clock.left_out = left_out
        if isinstance(grid, LossGrid):
            # Distances to a pole shrink along the step.
            deeper += float(grid.kappa * grid.growth) / math.log(10.0)
        stages = solve(
            self.network, self.problem, tableau, state.place, clock, guess,
            self.settings.digits - 6 + self.extra + deeper, self.path.counts, inspect,
        )  # fmt: skip
        return self._finish(state, grid, tableau, stages, left_out)

    def _finish(
        self, state: State, grid: Any, tableau: Tableau, stages: Stages, left_out: list[int]
    ) -> tuple[State, float]:
        network = self.network
        n, d, s = network.samples, network.inputs, tableau.stages
        z = [(a + b).mid() for a, b in zip(state.z, stages.dz[-n:], strict=True)]
        place = network.move(state.place, stages.dx[-d:])
        error = rate_error(network, self.problem, state.place, place, tableau, stages.E)
        values = self.problem.store(stages.V, grid)
        polynomial = (tableau.coefficients * arb_mat(s, n, values)).mid()
        active = [k for k in range(n) if stages.E[-n + k] != 0]
        sizes = logs(polynomial.entries()).reshape(s, n)[:, active].max(axis=1, initial=-math.inf) / math.log(10.0)
        sizes -= log10(self.problem.unit)
        asleep = [k for k in range(n) if self.problem.exponential and all(v == 0 for v in stages.E[k::n])]
        if isinstance(grid, LossGrid):
            gamma, tau = grid.stop, (state.tau + sum(stages.dz[-n:], arb(0))).mid()
            pace = self.problem.pace(stages.E[-n:], grid.stop)[0].log()
            weights = [(v - pace).mid() for v in stages.V[-n:]]
        else:
            margins = self.margins(place)
            if self.problem.exponential:
                error = max(error, gamma_error(tableau, stages.gamma))
            if self.problem.exponential and stages.gamma[-1] > 10 * state.gamma.max(arb(1)):
                raise Failure("past where the loss clock takes over")
            gamma, tau = self.problem.gamma(margins).mid(), exact_sum(grid.start, grid.length)
            weights = self.problem.log_weights(margins, gamma)
        record = Record(grid, tableau, state, stages, values, polynomial, sizes.tolist(), asleep, left_out, error)
        return State(z, place, gamma, tau, weights, record), error

    def margins(self, place: Place) -> list[arb]:
        beta = self.network.beta(place)
        if beta is None:
            raise Failure("beyond the pole")
        return (arb_mat(1, self.network.inputs, beta) * self.network.XT).mid().entries()

    # -- saves ---------------------------------------------------------------------------------------------------------

    def _save(self, target: arb, state: State) -> State:
        record = state.step
        if isinstance(record.grid, LossGrid):
            return self._save_rates(state, target)
        if target == state.gamma:
            return state
        # On the time clock the length is found by Newton's method, on log gamma where gamma is small.
        length = (record.grid.length * self._when(record, target)).mid()
        low, high = arb(0), record.grid.length
        for _ in range(200):
            try:
                saved, _ = self._part(record, TimeGrid(record.grid.start, length))
                landed = self._land(saved, target)
            except Failure:
                # Too far beside the pole for one linear step.
                length = ((low + high) / 2 if length == high else (length + high) / 2).mid()
                continue
            if log10(landed.late / length) < -0.6 * self.settings.digits - self.extra / 2:
                return landed
            low, high = (length, high) if saved.gamma < target else (low, length)
            late = landed.late
            if saved.gamma > 0 and target > 0 and abs((target / saved.gamma).log()) > 0.1:
                late = late * (target / saved.gamma).log() / (target / saved.gamma - 1)
            length = length + late
            length = (length if length > low and length < high else (low + high) / 2).mid()
        raise Stuck

    def _save_rates(self, state: State, target: arb) -> State:
        """A state of the loss clock, at the end of a step so short that its rates are right as well."""
        record = state.step
        whole = cast(LossGrid, record.grid)
        saved, error = (state, record.error) if target == state.gamma else self._part(record, whole.cut(target))
        for _ in range(4):
            excess = error + self.settings.at_saves
            if excess < 0.5:
                break
            grid, tableau = cast(LossGrid, saved.step.grid), saved.step.tableau
            share = arb(min(10.0 ** (-(excess + 1.0) / (self.settings.stages - 0.5)), 0.8))
            try:
                middle = self._part(record, whole.cut(grid.clock([1 - share]).gamma[0]))[0]
                grid = LossGrid(middle.gamma, target, grid.offset, grid.kappa)
                guess = self._interpolate([(record, p) for p in whole.positions(grid, tableau.nodes)], grid)
                saved, error = self._solve(middle, grid, tableau, guess, record.left_out)
            except Failure:
                break
        return saved

    def _deepen(self, state: State, grid: LossGrid | TimeGrid) -> State:
        """Solve the step before to more digits, if the next one is far shorter.

        Margins at its end are wrong by its length times the error in V; the next step makes up for that within its own.
        """
        record = state.record
        if record is None or not (isinstance(grid, LossGrid) and isinstance(record.grid, LossGrid)):
            return state
        shrunk = log10(record.grid.length) - log10(grid.length)
        if shrunk < record.deeper + 5.0:
            return state
        try:
            new, _ = self._solve(
                record.before, record.grid, record.tableau, record.stages.V, record.left_out, deeper=shrunk + 3.0
            )
        except Failure:
            # At the level of rounding already.
            record.deeper = shrunk + 3.0
            return state
        new.step.deeper = shrunk + 3.0
        self.path.records[-1] = new.step
        return new

    def _part(self, record: Record, grid: LossGrid | TimeGrid) -> tuple[State, float]:
        """The state at the end of a shorter step from where `record` starts, and its error."""
        tableau, positions = record.tableau, cast(Any, record.grid).positions
        guess = self._interpolate([(record, p) for p in positions(grid, tableau.nodes)], grid)
        return self._solve(record.before, grid, tableau, guess, record.left_out)

    def _when(self, record: Record, target: arb) -> arb:
        """About where in a step of the time clock gamma has the value `target`."""
        gamma, nodes = record.stages.gamma, record.tableau.nodes
        after = next((j for j, g in enumerate(gamma) if g > target), len(gamma) - 1)
        if after == 0:
            return (nodes[0] * target / gamma[0]).mid()
        before = after - 1
        if gamma[before] > 0:
            share = (target / gamma[before]).log() / (gamma[after] / gamma[before]).log()
        else:
            share = (target - gamma[before]) / (gamma[after] - gamma[before])
        return (nodes[before] + share * (nodes[after] - nodes[before])).mid()

    def _land(self, state: State, target: arb) -> State:
        """Move a state of the time clock by the last bit to gamma = target."""
        network = self.network
        rates = self.problem.velocity(state.weights)
        push = (arb_mat(1, network.samples, rates) * network.X).entries()
        slope = self.problem.slope(network.slopes(state.place), push, state.weights)
        late = ((target - state.gamma) / slope).mid()
        place = network.move(state.place, [late * p for p in push])
        z = [(a + late * b).mid() for a, b in zip(state.z, rates, strict=True)]
        weights = self.problem.log_weights(self.margins(place), target)
        return State(z, place, target, exact_sum(state.tau, late), weights, state.record, late, target - state.gamma)
