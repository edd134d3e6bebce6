"""Networks with kinks: the exact flow of one hidden layer of ReLU or leaky ReLU units.

The velocity of such a flow jumps where a pre-activation passes zero, and the flow can slide along such a surface; then
it is minus the element of least norm of the Clarke subdifferential. `gflow.gradient_flow` follows it piece by piece,
for models that declare their pre-activations: see `HiddenLayer`.
"""

from .events import Event as Event
from .layer import HiddenLayer as HiddenLayer
