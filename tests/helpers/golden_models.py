"""Golden state dicts loaded into our models."""

from collections.abc import Iterator

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from multitrain_jax.models.multitrain import MultiTrainConfig, MultiTrainModel
from multitrain_jax.models.mvit import MViTConfig
from multitrain_jax.models.variants import public_form
from multitrain_jax.pytorch import naming
from tests.helpers.golden import reference_path

STRIDES = ((1, 1, 1), (1, 2, 2), (1, 2, 2))
TINY = MViTConfig(num_frames=8, image_size=64, width=12, stage_blocks=(1, 2, 2, 1))
K400 = MViTConfig(
    num_frames=8, image_size=64, width=16, stage_blocks=(1, 2, 1), query_strides=STRIDES
)
DATASETS = ('kinetics', 'mit', 'ssv2')
FORMS = {
    'mvit_multitrain_tiny': (
        MultiTrainConfig(TINY, (7, 5, 9), expander_hidden=4096),
        DATASETS,
    ),
    'mvit_multitrain_k400head': (
        MultiTrainConfig(K400, (11,), head_hidden=0, projections=False, expander=False),
        (),
    ),
    'mvit_v2_pyslowfast_tiny': (
        MultiTrainConfig(public_form(TINY), (10,), head_hidden=0, expander=False),
        (),
    ),
    'mvit_v2_torchvision_tiny': (
        MultiTrainConfig(public_form(TINY), (10,), head_hidden=0, expander=False),
        (),
    ),
}


def flat(tree: nnx.Module | nnx.State) -> dict[str, np.ndarray]:
    """Our parameters, or their gradients or shapes, by path."""
    state = nnx.state(tree) if isinstance(tree, nnx.Module) else tree
    return {'/'.join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def shapes_of(config: MultiTrainConfig) -> MultiTrainModel:
    """A model of shapes: nothing is allocated."""
    return nnx.eval_shape(lambda: MultiTrainModel(config, rngs=nnx.Rngs(0)))


def load(name: str, config: MultiTrainConfig, datasets=()) -> MultiTrainModel:
    """A model with the parameters of a golden file; fails unless every array found its place."""
    arrays = dict(np.load(reference_path(f'{name}_params.npz')))
    style = naming.style_of(arrays)
    model, report = filled(config, arrays, naming.entries_of(config, style, datasets))
    assert not report.ignored and not report.missing
    return model


def filled(config: MultiTrainConfig, arrays, entries) -> tuple[MultiTrainModel, naming.Report]:
    """A model with the arrays of a state dict; zeros where it has none."""
    graph, state = nnx.split(shapes_of(config))
    zeros = {path: np.zeros(a.shape, a.dtype) for path, a in flat(state).items()}
    params, report = naming.from_torch(arrays, entries, zeros)
    leaves = [
        (path, leaf.replace(jnp.asarray(params['/'.join(map(str, path))])))
        for path, leaf in nnx.to_flat_state(state)
    ]
    return nnx.merge(graph, nnx.from_flat_state(leaves)), report


def random_model(build, *, seed: int = 0, scale: float = 0.3):
    """`build()` with every parameter drawn by NumPy: no initialiser has to be compiled."""
    generator = np.random.default_rng(seed)
    graph, state = nnx.split(nnx.eval_shape(build))
    draw = lambda a: jnp.asarray(generator.normal(0, scale, a.shape), jnp.float32)  # noqa: E731
    return nnx.merge(graph, jax.tree.map(draw, state))


def golden(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(reference_path(f'{name}_io.npz')))


def channels_last(clips: np.ndarray) -> np.ndarray:
    return clips.transpose(0, 2, 3, 4, 1)


def every_block(backbone: nnx.Module) -> Iterator[nnx.Module]:
    """The blocks in order, each with its own parameters: to look inside the scan."""
    if not hasattr(backbone, 'stages'):
        yield from _unstacked(backbone.blocks)
        return
    for stage in backbone.stages:
        yield stage.first
        yield from _unstacked(stage.rest)


def _unstacked(blocks: nnx.Module | None) -> Iterator[nnx.Module]:
    if blocks is None:
        return
    template, params = nnx.split(blocks)
    for i in range(jax.tree.leaves(params)[0].shape[0]):
        yield nnx.merge(template, jax.tree.map(lambda p: p[i], params))
