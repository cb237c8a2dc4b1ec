"""Parameter names and layouts of the reference implementations, and their places in our model.

Pure NumPy over dictionaries: a state dict is `{name: array}`, our parameters `{path: array}`
with paths such as 'backbone/stages/0/rest/mlp/fc1/kernel'. One `Entry` stands for one array of
the state dict. Ours stack what the references keep apart (the blocks of a stage, the three
poolings, the heads of the datasets), so an entry may name a part of a parameter.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import re

import numpy as np

from multitrain_jax.models.heads import Projections
from multitrain_jax.models.multitrain import MultiTrainConfig
from multitrain_jax.models.mvit import MViTConfig
from multitrain_jax.ops.windows import Triple

STYLES = ('multitrain', 'pyslowfast', 'torchvision')

# Linear layers on the skip paths of blocks that widen.
_SKIP = re.compile(r'blocks\.\d+\.(proj|proj_max_pool)\.weight')

# From the reference's layout to ours, and back.
_LAYOUTS = {
    'same': (lambda a: a, lambda a: a),
    'linear': (np.transpose, np.transpose),  # (out, in)
    'patch': (
        lambda a: a.transpose(2, 3, 4, 1, 0),  # (D, 3, kt, kh, kw)
        lambda a: a.transpose(4, 3, 0, 1, 2),
    ),
    'pool': (
        lambda a: a[:, 0].transpose(1, 2, 3, 0),  # (d, 1, 3, 3, 3)
        lambda a: a.transpose(3, 0, 1, 2)[:, None],
    ),
    'lead': (lambda a: a[0], lambda a: a[None]),  # (1, n, D)
    'token': (lambda a: a[0, 0], lambda a: a[None, None]),  # (1, 1, D)
    'grid': (
        lambda a: a.reshape(*(int(a.shape[1] ** 0.5),) * 2, -1),  # (1, h*w, D), h = w
        lambda a: a.reshape(1, -1, a.shape[-1]),
    ),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of a reference's state dict.

    Attributes:
      name: its name there.
      path: our parameter.
      part: index of our parameter that it fills; () for all of it.
      layout: how it is turned, a key of `_LAYOUTS`; or the (t, h, w) grid of its rows, (t*h*w, D).
      rows: index of the array, where only a part of it goes there; its last two axes, (n, D).
    """

    name: str
    path: str
    part: tuple = ()
    layout: str | Triple = 'same'
    rows: tuple = ()

    def ours(self, array: np.ndarray) -> np.ndarray:
        """The array of the state dict in our layout."""
        array = np.asarray(array)[self.rows]
        if isinstance(self.layout, tuple):
            return array.reshape(*self.layout, array.shape[-1])
        return _LAYOUTS[self.layout][0](array)

    def theirs(self, parameter: np.ndarray) -> np.ndarray:
        """The state dict's array, or its rows, out of our whole parameter."""
        parameter = np.asarray(parameter)[self.part]
        if isinstance(self.layout, tuple):
            return parameter.reshape(-1, parameter.shape[-1])
        return _LAYOUTS[self.layout][1](parameter)


def style_of(names: Sequence[str]) -> str:
    """Which reference wrote a state dict with these names.

    Raises:
      ValueError: if none of the three is recognised.
    """
    names = set(names)
    if 'conv_proj.weight' in names:
        return 'torchvision'
    if 'patch_embed.proj.weight' in names and 'blocks.0.attn.qkv.weight' in names:
        skips = {name.split('.')[2] for name in names if _SKIP.fullmatch(name)}
        if skips:
            return 'pyslowfast' if 'proj' in skips else 'multitrain'
        return 'pyslowfast' if 'blocks.0.attn.rel_pos_h' in names else 'multitrain'
    raise ValueError(
        'not a state dict of MViTv2 in the style of MultiTrain, PySlowFast or torchvision: '
        f'names begin with {sorted(names)[:3]}'
    )


def backbone_entries(config: MViTConfig, style: str) -> list[Entry]:
    """Entries of the backbone.

    Args:
      config: our architecture.
      style: one of `STYLES`.
    """
    if style not in STYLES:
        raise ValueError(f'style {style!r}: use one of {STYLES}')
    torchvision = style == 'torchvision'
    patch = 'conv_proj' if torchvision else 'patch_embed.proj'
    entries = [
        Entry(f'{patch}.weight', 'patch_kernel', (), 'patch'),
        Entry(f'{patch}.bias', 'patch_bias'),
    ]
    if config.class_token:
        entries.append(
            Entry('pos_encoding.class_token', 'class_token')
            if torchvision
            else Entry('cls_token', 'class_token', (), 'token')
        )
    if config.positions == 'separate':
        entries += [
            Entry('pos_embed_spatial', 'spatial_positions', (), 'grid'),
            Entry('pos_embed_temporal', 'temporal_positions', (), 'lead'),
        ]
        if config.class_token:
            entries.append(Entry('pos_embed_class', 'class_position', (), 'token'))
    number = 0
    relative = config.positions == 'relative'
    for stage, shapes in enumerate(config.block_shapes()):
        for i, shape in enumerate(shapes):
            path, part = (f'stages/{stage}/rest', (i - 1,)) if i else (f'stages/{stage}/first', ())
            own = dict(relative=relative, widens=shape.width_in != shape.width)
            entries += _block_entries(f'blocks.{number}', path, part, style, **own)
            number += 1
    entries += norm_entries('norm', 'norm', ())
    return [dataclasses.replace(e, path=f'backbone/{e.path}') for e in entries]


def entries_of(config: MultiTrainConfig, style: str, datasets: Sequence[str] = ()) -> list[Entry]:
    """Entries of the whole model.

    Args:
      config: our architecture.
      style: one of `STYLES`.
      datasets: names that the heads bear in the state dict, in our order; empty for a model with a
        single, unnamed classifier, or a single head for boxes.

    Raises:
      ValueError: if names and heads do not match, or the projections are factors.
    """
    if config.projections and config.projection_rank:
        raise ValueError('the references keep projections as full matrices: use projection_rank 0')
    entries = backbone_entries(config.backbone, style)
    classes = config.num_classes
    name = 'head.1' if style == 'torchvision' else 'head.projection'
    if config.num_actions is not None:
        if classes or len(config.num_actions) != 1:
            raise ValueError('a head for boxes is the only one that a model of the references has')
        return entries + linear_entries(name, 'localisation_heads/0/output', ())
    if not datasets:
        if len(classes) != 1 or config.head_hidden:
            raise ValueError(
                f'an unnamed classifier is one linear layer: got {len(classes)} heads with '
                f'head_hidden {config.head_hidden}'
            )
        entries += linear_entries(name, 'heads', (0,))
    elif len(datasets) != len(classes):
        raise ValueError(f'{len(datasets)} dataset names for {len(classes)} heads')
    for d, dataset in enumerate(datasets):
        name, count = f'head.heads.{dataset}', classes[d]
        if config.head_hidden:
            entries += [
                Entry(f'{name}.fc1.weight', 'heads/hidden_kernel', (d,), 'linear'),
                Entry(f'{name}.fc1.bias', 'heads/hidden_bias', (d,)),
            ]
            name = f'{name}.fc2'
        own = slice(0, count)
        entries += linear_entries(name, 'heads', (d,), own)
        sources = Projections.sources(len(classes), d) if config.projections else ()
        for j, o in enumerate(sources):
            name = f'head.cross_dataset_heads.{datasets[o]}_{dataset}.weight'
            part = (d, j, slice(0, classes[o]), own)
            entries.append(Entry(name, 'projections/kernel', part, 'linear'))
    if config.expander:
        entries += linear_entries('expander.fc1', 'expander/fc1', ())
        entries += linear_entries('expander.fc2', 'expander/fc2', ())
    return entries


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of a state dict: names used, names of it ignored, names looked for in vain."""

    used: tuple[str, ...]
    ignored: tuple[str, ...]
    missing: tuple[str, ...]


def from_torch(
    state_dict: Mapping[str, np.ndarray],
    entries: Sequence[Entry],
    parameters: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], Report]:
    """Our parameters with everything replaced that the state dict has.

    Args:
      state_dict: arrays by their names.
      entries: what to look for.
      parameters: our arrays by path; they are not written to. Also settles the shapes.

    Returns:
      New parameters, of the types of the given ones, and a report.

    Raises:
      ValueError: if an array does not have the shape of its place.
    """
    result = {path: np.array(array) for path, array in parameters.items()}
    used, missing = [], []
    for entry in entries:
        if entry.name not in state_dict:
            missing.append(entry.name)
            continue
        array, place = entry.ours(state_dict[entry.name]), result[entry.path][entry.part]
        if array.shape != place.shape:
            raise ValueError(
                f'{entry.name} is {state_dict[entry.name].shape}, which gives {array.shape}, but '
                f'{entry.path} has room for {place.shape}: the architectures differ'
            )
        result[entry.path][entry.part] = array
        used.append(entry.name)
    used = dict.fromkeys(used)
    ignored = tuple(name for name in state_dict if name not in used)
    return result, Report(tuple(used), ignored, tuple(missing))


def to_torch(
    parameters: Mapping[str, np.ndarray], entries: Sequence[Entry]
) -> dict[str, np.ndarray]:
    """Parameters, or their gradients, by the names and in the layouts of a reference."""
    arrays = {}
    for entry in entries:
        array = entry.theirs(parameters[entry.path])
        if entry.rows:  # come in order
            array = np.concatenate([*arrays.get(entry.name, ()), array])[None]
        arrays[entry.name] = array
    return arrays


def linear_entries(
    name: str, path: str, part: tuple, columns: slice | None = None, *, bias: bool = True
) -> list[Entry]:
    """Those of a linear layer, which may be some columns of ours, and without a bias."""
    weight = part if columns is None else (*part, slice(None), columns)
    entries = [Entry(f'{name}.weight', f'{path}/kernel', weight, 'linear')]
    if bias:
        entries.append(Entry(f'{name}.bias', f'{path}/bias', (*part, *weight[len(part) + 1 :])))
    return entries


def norm_entries(name: str, path: str, part: tuple) -> list[Entry]:
    return [
        Entry(f'{name}.weight', f'{path}/scale', part),
        Entry(f'{name}.bias', f'{path}/bias', part),
    ]


def _block_entries(
    name: str, path: str, part: tuple, style: str, *, relative: bool, widens: bool
) -> list[Entry]:
    torchvision = style == 'torchvision'
    attention, ours = f'{name}.attn', f'{path}/attention'
    entries = norm_entries(f'{name}.norm1', f'{path}/norm1', part)
    if relative:
        entries += [Entry(f'{attention}.rel_pos_{a}', f'{ours}/relative_{a}', part) for a in 'hwt']
    entries += linear_entries(f'{attention}.qkv', f'{ours}/qkv', part)
    output = 'project.0' if torchvision else 'proj'
    entries += linear_entries(f'{attention}.{output}', f'{ours}/output', part)
    for i, p in enumerate('qkv'):
        kernel = f'pool_{p}.pool' if torchvision else f'pool_{p}'
        norm = f'pool_{p}.norm_act.0' if torchvision else f'norm_{p}'
        which = (*part, i)
        entries += [
            Entry(f'{attention}.{kernel}.weight', f'{ours}/pool_kernel', which, 'pool'),
            Entry(f'{attention}.{norm}.weight', f'{ours}/pool_scale', which),
            Entry(f'{attention}.{norm}.bias', f'{ours}/pool_bias', which),
        ]
    entries += norm_entries(f'{name}.norm2', f'{path}/norm2', part)
    for ours, theirs in (('fc1', '0'), ('fc2', '3')):
        mlp = theirs if torchvision else ours
        entries += linear_entries(f'{name}.mlp.{mlp}', f'{path}/mlp/{ours}', part)
    if widens:
        skip = {'multitrain': 'proj_max_pool', 'pyslowfast': 'proj', 'torchvision': 'project'}
        entries += linear_entries(f'{name}.{skip[style]}', f'{path}/skip', part)
    return entries
