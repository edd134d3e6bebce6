"""The transition between regimes as a web page that works without a network: sliders for scale, depth and accuracy, and
figures that follow them.

`contents` computes what the page shows from the Dataset of `gflow.studies.transition`; `page` makes one HTML file of it
(the folder `page` holds template, style and scripts). Only flows on the grid of the Dataset can be chosen: nothing
is interpolated between them.
"""

from .contents import contents as contents
from .packing import page as page
