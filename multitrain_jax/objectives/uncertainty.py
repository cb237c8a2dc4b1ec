"""Weights that are learned with the model: uncertainty weighting (arXiv 1705.07115, equation 10).

A loss l of fixed weight w becomes

    w exp(-v) l + v / 2

with one learned number v, the logarithm of a variance, for every dataset and for both parts of the
informative loss. v starts at 0, so training starts with the fixed weights; w = 1/2 is the paper's
form. A loss that stays large gets a smaller weight; v / 2 keeps the weight from vanishing.

v is kept within +-`LIMIT`: without a limit a loss that reaches 0 (the variance term does) would
have a weight that grows for ever. The limit is smooth, so that v can always come back.

In the public code of MultiTrain v / 2 is added once per dataset and batch, while the loss is a sum
over clips. Here it is added for every clip: the weight settles where w exp(-v) times the *mean*
loss is 1/2, whatever the batch size, and a dataset without a clip in the batch contributes nothing.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

LIMIT = 5.0  # a weight changes by a factor of exp(5) = 148 at most

LogVariances = Mapping[str, jax.Array]  # 'dataset': f32[N], 'informative': f32[2] (std, covariance)


def init_log_variances(
    num_datasets: int, *, dataset: bool, informative: bool
) -> dict[str, jax.Array]:
    """The learned parameters of the weights that are turned on, at their start."""
    sizes = {'dataset': num_datasets if dataset else 0, 'informative': 2 if informative else 0}
    return {name: jnp.zeros((size,), jnp.float32) for name, size in sizes.items() if size}


def learned_weight(weight: jax.Array, parameter: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(w exp(-v), v / 2) with v = `LIMIT` tanh(parameter / `LIMIT`); all of one shape."""
    log_variance = LIMIT * jnp.tanh(parameter / LIMIT)
    return weight * jnp.exp(-log_variance), 0.5 * log_variance
