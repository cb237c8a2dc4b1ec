"""What the objective reports of itself."""

from typing import NamedTuple

import jax


class Term(NamedTuple):
    """A mean that is not divided yet, so that terms of replicas and steps may be added."""

    sum: jax.Array  # f32[]
    count: jax.Array  # f32[]
