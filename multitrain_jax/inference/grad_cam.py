"""Where a model looks: how much each token speaks for a class.

Grad-CAM (arXiv 1610.02391) in the form that keeps the gradient of each token apart (HiResCAM, arXiv
2011.08891, equation 3): a token's heat is the sum over its channels of deviation from the mean
token times gradient of the class's logit; what speaks against the class is left out. Deviations,
since a large part of every token is common to all of them and says nothing of a place. The tokens
are those that enter the last stage, of a plain transformer those that enter its last block: finer,
and nearer to the picture than what leaves it, where each token knows of all others.
"""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from multitrain_jax.augment.pipeline import prepare_eval
from multitrain_jax.checkpoints.exports import ModelInfo


def forward_with_heat(
    info: ModelInfo,
    graphdef: nnx.GraphDef,
    named: Callable[[Any], Any],
    datasets: Sequence[str],
    blocks: int | None = None,
) -> Callable[[Any, Mapping[str, jax.Array]], tuple[Any, dict[str, jax.Array]]]:
    """A program `params, batch -> (outputs, {dataset: f32[B, t, h, w]})`.

    The batch has `video`, and may have `boxes`, of which the first one counts, and `label` i32[B],
    the class whose heat is wanted; below 0, and without, the one with the highest logit.

    Args:
        info: of the model.
        graphdef: likewise.
        named: makes outputs with `logits` and `actions` by dataset out of the model's.
        datasets: whose heat is wanted.
        blocks: after how many the tokens are taken; None: see above.
    """
    blocks = info.model.backbone.before_last_stage if blocks is None else blocks

    def run(params, batch):
        model = nnx.merge(graphdef, params)
        video = prepare_eval(batch['video'], mean=info.mean, std=info.std)
        x, thw = model.backbone.begin(video)
        x, thw = model.backbone.run(x, thw, slice(blocks))

        def rest(x):
            features = model.backbone.pool(*model.backbone.run(x, thw, slice(blocks, None)))
            return named(model.of_features(features, batch.get('boxes')))

        outputs, gradient_of = jax.vjp(rest, x)
        tokens = slice(x.shape[1] - math.prod(thw), None)  # without a class token

        def heat(name):
            group = outputs.logits if name in outputs.logits else outputs.actions
            logits = group[name] if group is outputs.logits else group[name][:, 0]
            best = logits.argmax(-1)
            label = batch.get('label', best)
            label = jnp.where(label < 0, best, label)
            wanted = jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)
            if group is outputs.actions:
                wanted = jnp.zeros_like(group[name]).at[:, 0].set(wanted)
            cotangent = jax.tree.map(jnp.zeros_like, outputs)
            group = cotangent.logits if name in cotangent.logits else cotangent.actions
            group[name] = wanted
            gradient = gradient_of(cotangent)[0][:, tokens].astype(jnp.float32)
            own = x[:, tokens].astype(jnp.float32)
            deviation = own - own.mean(1, keepdims=True)
            return jax.nn.relu((deviation * gradient).sum(-1)).reshape(len(x), *thw)

        return outputs, {name: heat(name) for name in datasets}

    return run
