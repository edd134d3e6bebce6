"""Smooth flows, step by step."""

from .loop import advance as advance, GAUGE_RANGE as GAUGE_RANGE
from .passage import beyond as beyond, passage as passage, reading as reading
from .position import (
    change_solver as change_solver,
    empty_saves as empty_saves,
    order_of as order_of,
    Position as Position,
    refuse_points as refuse_points,
    Saves as Saves,
    start as start,
    with_status as with_status,
)
from .rest import conclude as conclude, rests_on as rests_on
