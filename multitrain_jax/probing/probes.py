"""Attentive probes: for every dataset and learning rate one, all trained in one program."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from multitrain_jax.batch import DatasetSpec
from multitrain_jax.evaluation.metrics import DatasetResult, Scores, summarise
from multitrain_jax.models.heads import class_mask
from multitrain_jax.models.vit import AttentivePooler, ViTConfig
from multitrain_jax.optimizer import OptimizerConfig, decay_mask, learning_rate_schedule
from multitrain_jax.probing.features import Features


class Probe(nnx.Module):
    """Attentive pooling and a linear layer, as V-JEPA 2's classifiers have them."""

    def __init__(self, pooling: ViTConfig, classes: int, *, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(pooling.init_std)
        self.pooler = AttentivePooler(pooling, rngs=rngs)
        self.kernel = nnx.Param(normal(rngs.params(), (pooling.width, classes)))
        self.bias = nnx.Param(jnp.zeros((classes,), jnp.float32))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """f32[B, C] of tokens [B, L, D]."""
        embedding = self.pooler(tokens).astype(jnp.float32)
        return embedding @ self.kernel[...] + self.bias[...][None]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Of one dataset.

    Attributes:
        results: of each learning rate.
        best: number of the best one.
        params: of the best probe: `pooler`, `kernel` [D, C], `bias` [C].
    """

    results: Sequence[DatasetResult]
    best: int
    params: dict[str, Any]


def train(
    specs: Sequence[DatasetSpec],
    training: Sequence[Features],
    validation: Sequence[Features],
    pooling: ViTConfig,
    optimizer: OptimizerConfig,
    *,
    learning_rates: Sequence[float],
    epochs: float,
    batch_size: int,
    label_smoothing: float,
    seed: int,
    report: Callable[[int, int, float], None] = lambda step, of, loss: None,
) -> list[Outcome]:
    """Trains all probes and picks the best of each dataset.

    Every dataset is passed through `epochs` times with its own warm-up and cosine; probes of a
    smaller one rest when they are done. All learning rates start from the same parameters and see
    the same batches; AdamW, whose update does not depend on the learning rate, is followed by each
    one's own.

    Args:
        specs: the N datasets, of classes of whole clips.
        training: their features.
        validation: likewise.
        pooling: architecture of the attentive pooling.
        optimizer: warm-up, decay, betas; its learning rates are not used.
        learning_rates: R peaks.
        epochs: of each dataset.
        batch_size: examples of every dataset in a step.
        label_smoothing: of datasets with one label per clip.
        seed: of parameters and order.
        report: gets step, number of steps, loss.
    """
    count, widest = len(specs), max(len(spec.classes) for spec in specs)
    masks = class_mask([len(spec.classes) for spec in specs])
    many = np.array([spec.multi_label for spec in specs])

    def make(key):
        return nnx.to_pure_dict(nnx.state(Probe(pooling, widest, rngs=nnx.Rngs(key))))

    graphdef = nnx.split(nnx.eval_shape(lambda: Probe(pooling, widest, rngs=nnx.Rngs(0))))[0]
    of_datasets = jax.jit(jax.vmap(make))(jax.random.split(jax.random.key(seed), count))
    # [R, N, ...]
    params = jax.tree.map(lambda p: jnp.stack([p] * len(learning_rates)), of_datasets)
    # A probe's own shapes say what decays: stacked, every bias has several axes.
    mask = decay_mask(jax.eval_shape(make, jax.random.key(0)))
    adam = optax.chain(
        optax.scale_by_adam(optimizer.b1, optimizer.b2, optimizer.eps),
        optax.add_decayed_weights(optimizer.weight_decay, mask),
    )
    lengths = [
        max(1, round(epochs * math.ceil(features.present.sum() * features.views / batch_size)))
        for features in training
    ]
    ends = dict(peak_learning_rate=1.0, warmup_start_learning_rate=0.0, end_learning_rate=0.0)
    unit = dataclasses.replace(optimizer, **ends)
    schedules = [
        learning_rate_schedule(unit, steps_per_epoch=length / epochs, total_steps=length)
        for length in lengths
    ]

    def loss(params, tokens, labels, weight, mask, multi_label):
        logits = nnx.merge(graphdef, params)(tokens.astype(jnp.float32))
        logits = jnp.where(mask[None], logits, -1e9)
        classes = mask.sum()
        soft = labels * (1 - label_smoothing) + label_smoothing * mask[None] / classes
        one = -(soft * jnp.where(mask[None], jax.nn.log_softmax(logits), 0.0)).sum(-1)
        binary = optax.sigmoid_binary_cross_entropy(logits, labels)
        several = jnp.where(mask[None], binary, 0.0).sum(-1) / classes
        return (jnp.where(multi_label, several, one) * weight).sum() / jnp.maximum(
            weight.sum(), 1.0
        )

    of_all = jax.vmap(jax.value_and_grad(loss))  # over datasets
    of_all = jax.vmap(of_all, in_axes=(0, None, None, None, None, None))  # over learning rates

    @jax.jit
    def step(params, state, batch, rates):
        losses, grads = of_all(params, *batch, masks, many)
        updates, state = adam.update(grads, state, params)

        def scaled(update):
            return -update * rates.reshape(rates.shape + (1,) * (update.ndim - 2))

        return optax.apply_updates(params, jax.tree.map(scaled, updates)), state, losses

    state = jax.jit(adam.init)(params)
    orders = [_order(features, batch_size, [seed, n]) for n, features in enumerate(training)]
    total = max(lengths)
    for number in range(total):
        running = [number < length for length in lengths]
        batch = _batch(orders, training, specs, widest, batch_size, running)
        factors = np.array([s(number) if on else 0.0 for s, on in zip(schedules, running)])
        rates = np.asarray(learning_rates)[:, None] * factors[None]
        params, state, losses = step(params, state, batch, rates.astype(np.float32))
        if (number + 1) % 20 == 0 or number + 1 == total:
            report(number + 1, total, float(losses.mean()))

    run = jax.jit(lambda params, tokens: nnx.merge(graphdef, params)(tokens.astype(jnp.float32)))
    outcomes = []
    for n, spec in enumerate(specs):
        results = []
        for r in range(len(learning_rates)):
            own = jax.tree.map(lambda p: p[r, n], params)
            results.append(_validate(run, own, validation[n], spec, batch_size))
        figures = [result.primary for result in results]
        best = int(np.nanargmax(figures)) if not all(map(math.isnan, figures)) else 0
        kept = jax.device_get(jax.tree.map(lambda p: p[best, n], params))
        for name in ('kernel', 'bias'):
            kept[name] = kept[name][..., : len(spec.classes)]
        outcomes.append(Outcome(results, best, kept))
    return outcomes


def _order(features: Features, batch_size: int, seed: Sequence[int]) -> Iterator[np.ndarray]:
    """Rows of each batch: every epoch in its own order, its last batch filled up with -1."""
    rows = np.flatnonzero(np.repeat(features.present, features.views))
    generator = np.random.default_rng(seed)
    while True:
        order = generator.permutation(rows)
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            yield np.pad(part, (0, batch_size - len(part)), constant_values=-1)


def _batch(
    orders: Sequence[Iterator[np.ndarray]],
    training: Sequence[Features],
    specs: Sequence[DatasetSpec],
    classes: int,
    batch_size: int,
    running: Sequence[bool],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tokens f16[N, B, L, D], labels f32[N, B, C], weights f32[N, B])."""
    shape = training[0].tokens.shape[1:]
    tokens = np.zeros((len(specs), batch_size, *shape), np.float16)
    labels = np.zeros((len(specs), batch_size, classes), np.float32)
    weight = np.zeros((len(specs), batch_size), np.float32)
    for n, (order, features, spec) in enumerate(zip(orders, training, specs)):
        if not running[n]:
            continue
        for b, row in enumerate(next(order)):
            if row < 0:
                continue
            tokens[n, b], weight[n, b] = features.tokens[row], 1.0
            label = features.labels[row // features.views]
            if spec.multi_label:
                labels[n, b, : len(label)] = label
            else:
                labels[n, b, label] = 1.0
    return tokens, labels, weight


def _validate(
    run: Callable, params, features: Features, spec: DatasetSpec, batch_size: int
) -> DatasetResult:
    """Scores averaged over the views of each video."""
    records = np.flatnonzero(features.present)
    rows = (records[:, None] * features.views + np.arange(features.views)).reshape(-1)
    scores = []
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        tokens = features.tokens[np.pad(part, (0, batch_size - len(part)), mode='edge')]
        logits = run(params, tokens)[: len(part), : len(spec.classes)]
        activate = jax.nn.sigmoid if spec.multi_label else jax.nn.softmax
        scores.append(np.asarray(activate(logits)))
    score = np.concatenate(scores or [np.zeros((0, len(spec.classes)))])
    score = score.reshape(len(records), features.views, -1).mean(1)
    return summarise(Scores(records, score, features.labels[records]), spec)
