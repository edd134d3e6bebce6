"""The variable of a step: what is linear in s in [0, 1] between the ends of the step.

Far out on the loss clock dz/dv tends to a constant, up to powers of 1/gamma, for

    D = 2:  v = log(gamma + c),         D > 2:  v = (gamma + c)^(-kappa),   kappa = (D - 2)/D,

since x grows like log(gamma)/4, or approaches its pole like gamma^(-kappa). With c of the size alpha^D both are linear
in gamma in the kernel regime, where z is. So steps grow with log gamma. On the time clock v = tau.
"""

from dataclasses import dataclass

from flint import arb

from .exact import exact_sum
from .matrix import Clock


@dataclass(eq=False)
class LossGrid:
    """From gamma = `start` to `stop`; `offset` is c, `kappa` a float-free arb (0 for D = 2)."""

    start: arb
    stop: arb
    offset: arb
    kappa: arb

    def __post_init__(self):
        base = self.start + self.offset
        self.length = (self.stop - self.start).mid()
        self.growth = (self.length / base).log1p().mid()
        self.share = -(-self.kappa * self.growth).expm1().mid() if self.kappa > 0 else self.growth
        # log of the change of v
        self.log_width = (self.share.log() - self.kappa * base.log()).mid()

    @property
    def end(self) -> arb:
        return self.stop

    def clock(self, nodes: list[arb]) -> Clock:
        base = self.start + self.offset
        if self.kappa > 0:
            gamma = [self.start + base * (-(-c * self.share).log1p() / self.kappa).expm1() for c in nodes]
        else:
            gamma = [self.start + base * (c * self.growth).expm1() for c in nodes]
        return Clock(True, [g.mid() for g in gamma], [], [])

    def points(self, nodes: list[arb]) -> list[arb]:
        """gamma at the nodes."""
        return self.clock(nodes).gamma

    def speeds(self, clock: Clock, nodes: list[arb]) -> list[arb]:
        """d gamma / ds"""
        if self.kappa > 0:
            return [
                (g + self.offset) * self.share / (self.kappa * (1 - c * self.share))
                for g, c in zip(clock.gamma, nodes, strict=True)
            ]
        return [(g + self.offset) * self.growth for g in clock.gamma]

    def bends(self, nodes: list[arb]) -> list[arb]:
        """(d^2 gamma / ds^2) / (d gamma / ds)"""
        if self.kappa > 0:
            return [(1 + 1 / self.kappa) * self.share / (1 - c * self.share) for c in nodes]
        return [self.growth] * len(nodes)

    def positions(self, other: "LossGrid", nodes: list[arb]) -> list[arb]:
        """Where the nodes of another grid lie in this one, in units of s."""
        apart = ((other.start - self.start) / (self.start + self.offset)).log1p()
        if self.kappa > 0:
            left = (-self.kappa * apart).exp()
            return [(1 - left * (1 - c * other.share)) / self.share for c in nodes]
        return [(apart + c * other.growth) / self.growth for c in nodes]

    def position(self, gamma: arb) -> arb:
        apart = ((gamma - self.start) / (self.start + self.offset)).log1p()
        return -(-self.kappa * apart).expm1() / self.share if self.kappa > 0 else apart / self.growth

    def cut(self, stop: arb) -> "LossGrid":
        return LossGrid(self.start, stop, self.offset, self.kappa)


@dataclass(eq=False)
class TimeGrid:
    """From tau = `start` over `length`."""

    start: arb
    length: arb

    def __post_init__(self):
        self.log_width = self.length.log().mid()
        self.end = exact_sum(self.start, self.length)

    def clock(self, nodes: list[arb]) -> Clock:
        return Clock(False, [], [self.log_width] * len(nodes), [self.length] * len(nodes))

    def points(self, nodes: list[arb]) -> list[arb]:
        """tau at the nodes."""
        return [exact_sum(self.start, c * self.length) for c in nodes]

    def positions(self, other: "TimeGrid", nodes: list[arb]) -> list[arb]:
        return [(other.start - self.start + c * other.length) / self.length for c in nodes]

    def position(self, tau: arb) -> arb:
        return (tau - self.start) / self.length
