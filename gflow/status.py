"""How a run ended, in a sentence."""

import enum


class Status(enum.IntEnum):
    """Outcome of a run. `sentence` says it in words."""

    running = 0
    success = 1
    max_steps = 2
    step_too_small = 3
    stationary_start = 4
    settled = 5
    residual_floor = 6
    minimum = 7
    interrupted = 8
    bad_points = 9
    no_model = 10
    unverified = 11

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]


_SENTENCES = {
    Status.running: "The run has not ended.",
    Status.success: "The flow reached the stop.",
    Status.max_steps: "The run used up max_steps before the stop; raise max_steps, loosen rtol, or resume it.",
    Status.step_too_small: (
        "The steps shrank to rounding level before the stop: float64 cannot resolve the flow here at this rtol."
    ),
    Status.stationary_start: (
        "The flow cannot leave its start: the gradient there is zero, underflows, or is not finite."
    ),
    Status.settled: (
        "The flow came to rest to rounding: at a stationary point, or on a plateau whose slow exit this solver cannot "
        "resolve."
    ),
    Status.minimum: "The loss cannot fall further: the flow reached the minimum over beta, where the gradient is zero.",
    Status.residual_floor: (
        "The residuals are at rounding level: float64 cannot hold a smaller square loss (1e-27 to 1e-32 of the squared "
        "targets)."
    ),
    Status.bad_points: "The save points and the stop do not increase from the start of the flow; sort them.",
    Status.no_model: "make_model raised an error at this point of the sweep, so there was nothing to run.",
    Status.unverified: "The flow reached the stop, but two solutions do not agree to the digits asked for.",
    Status.interrupted: "The run was interrupted; pass resume=<this trajectory> to go on.",
}
