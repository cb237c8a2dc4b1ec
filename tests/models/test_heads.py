"""Projections as full matrices and as products of factors."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from multitrain_jax.models.heads import Projections, class_mask
from multitrain_jax.models.multitrain import MultiTrainConfig, count_parameters
from multitrain_jax.models.mvit import MViTConfig
from tests.helpers.golden_models import flat, shapes_of

CLASSES = (3, 5, 2)


def _projections(rank: int, classes=CLASSES, init_std=0.02) -> Projections:
    return jax.jit(lambda: Projections(classes, init_std=init_std, rank=rank, rngs=nnx.Rngs(0)))()


def _logits(clips: int = 4) -> jax.Array:
    logits = jax.random.normal(jax.random.key(1), (len(CLASSES), clips, max(CLASSES)))
    return jnp.where(class_mask(CLASSES)[:, None], logits, 0)


def test_factors_of_enough_rank_equal_full_matrices():
    full, factors = _projections(0), _projections(max(CLASSES))
    u, s, vt = np.linalg.svd(np.asarray(full.kernel[...]))
    factors.left[...] = jnp.asarray(u * s[..., None, :])
    factors.right[...] = jnp.asarray(vt)
    np.testing.assert_allclose(factors.matrices(), full.matrices(), atol=1e-7)
    np.testing.assert_allclose(factors(_logits()), full(_logits()), atol=1e-6)


def test_factors_of_a_rank_are_matrices_of_that_rank():
    factors = _projections(2)
    for d in range(len(CLASSES)):
        for j, o in enumerate(Projections.sources(len(CLASSES), d)):
            matrix = np.asarray(factors.matrices()[d, j])
            assert np.linalg.matrix_rank(matrix) == 2
            # Padded classes take no part.
            assert not matrix[CLASSES[o] :].any() and not matrix[:, CLASSES[d] :].any()
            expected = np.asarray(_logits()[o], np.float64) @ matrix
            np.testing.assert_allclose(factors(_logits())[d, j], expected, atol=1e-6)


def test_padding_of_factors_gets_no_gradient():
    graph, params = nnx.split(_projections(2))

    def loss(params):
        projected = nnx.merge(graph, params)(_logits())  # [N, N - 1, B, C]
        return jnp.sin(jnp.where(class_mask(CLASSES)[:, None, None], projected, 0)).sum()

    gradients = flat(jax.jit(jax.grad(loss))(params))
    for d, classes in enumerate(CLASSES):
        for j, o in enumerate(Projections.sources(len(CLASSES), d)):
            left, right = gradients['left'][d, j], gradients['right'][d, j]
            assert np.all(left[: CLASSES[o]]) and not np.any(left[CLASSES[o] :])
            assert np.all(right[:, :classes]) and not np.any(right[:, classes:])


def test_factors_start_with_the_deviation_of_full_matrices():
    for rank in (0, 8):
        matrices = _projections(rank, classes=(60, 60), init_std=0.05).matrices()
        assert abs(np.std(matrices) - 0.05) < 0.005


def test_factors_of_many_datasets_are_small():
    backbone = MViTConfig(
        num_frames=2, image_size=8, width=4, stage_blocks=(1,), query_strides=((1, 1, 1),)
    )
    classes = (700,) * 32
    full, factors = (
        count_parameters(shapes_of(MultiTrainConfig(backbone, classes, projection_rank=rank)))
        for rank in (0, 64)
    )
    assert full['projections'] == 32 * 31 * 700 * 700  # 1.9 GB in float32
    assert factors['projections'] == 32 * 31 * 2 * 64 * 700
    assert {**full, 'projections': 0, 'total': 0} == {**factors, 'projections': 0, 'total': 0}


def test_the_program_is_of_one_size_for_any_number_of_datasets():
    def lines(count):
        projections = nnx.eval_shape(
            lambda: Projections((4,) * count, init_std=0.1, rngs=nnx.Rngs(0))
        )
        graph, params = nnx.split(projections)
        logits = jax.ShapeDtypeStruct((count, 3, 4), jnp.float32)
        loss = lambda params, logits: jnp.sin(nnx.merge(graph, params)(logits)).sum()  # noqa: E731
        lowered = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, logits)
        return len(lowered.as_text().splitlines())

    assert lines(32) == lines(8) > 10
