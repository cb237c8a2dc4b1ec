"""Classification heads of all datasets and the projections between them.

The heads are one module with a leading dataset axis, padded to the largest number of classes: cost
and compile time hardly grow with the number of datasets. Padded parameters start at zero. Nothing
that leaves the model depends on a padded logit and a padded logit is 0, so the gradients of padding
are zero and it stays zero.
"""

from collections.abc import Sequence

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from multitrain_jax.models.layers import dropout, gelu

# Stands for the logits of classes that a dataset does not have: probability 0 after softmax and
# sigmoid, and finite, so that 0 * logit is 0.
PADDED_LOGIT = -1e9


def class_mask(num_classes: Sequence[int]) -> np.ndarray:
    """bool [N, C]: which of the C = max classes each dataset has."""
    return np.arange(max(num_classes))[None, :] < np.asarray(num_classes)[:, None]


class Heads(nnx.Module):
    """One classifier per dataset (MultiTrain, supplement, section 2): linear, GELU, linear.

    With `hidden` 0 each is a single linear layer, as in a model trained on one dataset. Dropout
    acts on the input of the last layer and, as in the public code, on the logits.
    """

    def __init__(
        self,
        width: int,
        num_classes: Sequence[int],
        *,
        hidden: int,
        head_dropout: float,
        logit_dropout: float,
        init_std: float,
        rngs: nnx.Rngs,
    ):
        mask = class_mask(num_classes)
        count, classes = mask.shape
        normal = nnx.initializers.normal(init_std)
        if hidden:
            self.hidden_kernel = nnx.Param(normal(rngs.params(), (count, width, hidden)))
            self.hidden_bias = nnx.Param(jnp.zeros((count, hidden), jnp.float32))
        kernel = normal(rngs.params(), (count, hidden or width, classes)) * mask[:, None]
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros((count, classes), jnp.float32))
        self.num_classes = tuple(num_classes)
        self.hidden = hidden
        self.head_dropout = head_dropout
        self.logit_dropout = logit_dropout

    @jax.named_scope('heads')
    def __call__(self, embedding: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Logits of every head for every clip: float32 [N, B, C], 0 where a class is padding.

        Args:
          embedding: float32 [B, D].
          key: PRNG key of the dropout; None: no dropout.
        """
        params = {'kernel': self.kernel[...], 'bias': self.bias[...]}
        if self.hidden:
            params['hidden_kernel'] = self.hidden_kernel[...]
            params['hidden_bias'] = self.hidden_bias[...]

        def one_head(params, keys):
            hidden_key, logit_key = (None, None) if keys is None else keys
            x = embedding
            if self.hidden:
                x = x @ params['hidden_kernel'] + params['hidden_bias'][None]
                x = gelu(x)
            x = dropout(x, self.head_dropout, hidden_key)
            logits = x @ params['kernel'] + params['bias'][None]  # [B, C]
            return dropout(logits, self.logit_dropout, logit_key)

        keys = None if key is None else jax.random.split(key, (len(self.num_classes), 2))
        return jax.vmap(one_head)(params, keys)

    @jax.named_scope('heads')
    def mask_padding(self, logits: jax.Array) -> jax.Array:
        """Sets padded classes of logits [N, ..., B, C] to `PADDED_LOGIT`."""
        mask = class_mask(self.num_classes)
        mask = mask.reshape(mask.shape[0], *(1,) * (logits.ndim - 2), mask.shape[1])
        return jnp.where(mask, logits, PADDED_LOGIT)


class Projections(nnx.Module):
    """A linear map without bias from each dataset's logits to each other dataset's classes.

    `matrices()` is [N, N - 1, C, C]: entry [d, j] maps the logits of dataset `sources(N, d)[j]`
    (rows) to the classes of dataset d (columns). MultiTrain, section 3. They are the parameter
    `kernel`, or, with a positive rank R, the products of two factors, `left` [N, N - 1, C, R]
    and `right` [N, N - 1, R, C]: for many datasets of many classes, where the matrices would take
    N^2 C^2 numbers.
    """

    def __init__(
        self, num_classes: Sequence[int], *, init_std: float, rank: int = 0, rngs: nnx.Rngs
    ):
        mask = class_mask(num_classes)
        count, classes = mask.shape
        pairs = (count, count - 1)
        rows = np.stack([mask[self.sources(count, d)] for d in range(count)])  # [N, N - 1, C]
        if rank:
            # The product's entries have the deviation init_std.
            normal = nnx.initializers.normal((init_std / rank**0.5) ** 0.5)
            left = normal(rngs.params(), (*pairs, classes, rank))
            right = normal(rngs.params(), (*pairs, rank, classes))
            self.left = nnx.Param(left * rows[..., None])
            self.right = nnx.Param(right * mask[:, None, None])
        else:
            kernel = nnx.initializers.normal(init_std)(rngs.params(), (*pairs, classes, classes))
            self.kernel = nnx.Param(kernel * rows[..., None] * mask[:, None, None])
        self.num_classes = tuple(num_classes)
        self.rank = rank

    @staticmethod
    def sources(count: int, target: int) -> list[int]:
        """Which dataset each of the N - 1 projections to `target` reads: (target + 1 + j) % N."""
        return [(target + 1 + j) % count for j in range(count - 1)]

    def matrices(self) -> jax.Array:
        """All maps [N, N - 1, C, C], 0 where a class is padding."""
        return self.left[...] @ self.right[...] if self.rank else self.kernel[...]

    @jax.named_scope('heads')
    def __call__(self, logits: jax.Array) -> jax.Array:
        """Projected logits [N, N - 1, B, C] of logits [N, B, C] whose padding is 0."""
        count = logits.shape[0]
        # Repeated and cut in rows of N + 1, of which each begins one dataset later than the one
        # before: as cheap in the gradient, where indexing would be a scatter, and the same few
        # operations for any number of datasets.
        rolled = jnp.concatenate([logits[1:], logits[:1]])  # jax2onnx cannot `jnp.roll`
        repeated = jnp.tile(rolled, (count + 1, 1, 1))
        others = repeated.reshape(count, count + 1, *logits.shape[1:])[:, : count - 1]
        for factor in (self.left, self.right) if self.rank else (self.kernel,):
            others = jnp.einsum('djbs,djsc->djbc', others, factor[...])
        return others


def add_projected(logits: jax.Array, projected: jax.Array, factor: float) -> jax.Array:
    """Each head's logits [N, B, C] plus `factor` times the others' projected [N, N - 1, B, C]."""
    return logits + factor * projected.sum(1)
