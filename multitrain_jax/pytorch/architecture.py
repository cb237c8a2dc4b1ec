"""The architecture of a PyTorch MViTv2 from the names and shapes in its state dict.

Widths, heads, blocks, stages, kernels, classifiers are read off the shapes. Strides are not there:
those come from the user, or from the configuration that PySlowFast keeps in its checkpoints; else
the usual ones are assumed, as far as they agree with the sizes of the position tables, from which
also the clip's size follows.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import itertools
import re
from typing import Any

from multitrain_jax.errors import UserError
from multitrain_jax.models.multitrain import MultiTrainConfig
from multitrain_jax.models.mvit import MViTConfig
from multitrain_jax.ops.windows import Triple
from multitrain_jax.pytorch import naming

Shapes = Mapping[str, tuple[int, ...]]

# Most usual first.
_KV_STRIDES = ((1, 8, 8), (1, 4, 4), (1, 2, 2), (1, 1, 1), (1, 16, 16))
_IMAGE_KV_STRIDES = ((1, 4, 4), (1, 8, 8), (1, 2, 2), (1, 1, 1))
_QUERY_STRIDES = ((1, 2, 2), (1, 1, 1), (2, 2, 2), (2, 1, 1))
_FRAMES = 16  # of a model whose weights do not tell


@dataclasses.dataclass(frozen=True)
class Hints:
    """What weights do not tell; None: not known.

    Attributes:
        num_frames: of a clip.
        image_size: pixels.
        patch_stride: of the patch convolution.
        query_strides: of every stage's first block.
        block_query_strides: the same, by number of the block; blocks that are not there have (1, 1,
            1).
        kv_stride: of keys and values in stage 1.
    """

    num_frames: int | None = None
    image_size: int | None = None
    patch_stride: Triple | None = None
    query_strides: tuple[Triple, ...] | None = None
    block_query_strides: Mapping[int, Triple] | None = None
    kv_stride: Triple | None = None


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a state dict is.

    Attributes:
        style: whose names it bears, one of `naming.STYLES`.
        model: our configuration, of the sizes that the position tables were learned for.
        datasets: names that its heads bear, in their order; empty for a single, unnamed classifier.
        entries: places of its arrays in our model.
        assumptions: lines about what the weights did not tell.
    """

    style: str
    model: MultiTrainConfig
    datasets: tuple[str, ...]
    entries: tuple[naming.Entry, ...]
    assumptions: tuple[str, ...]


def recognise(shapes: Shapes, hints: Hints, *, image: bool = False) -> Architecture:
    """Reads the architecture.

    Args:
        shapes: of all arrays, three-dimensional convolutions throughout (see `inflate`).
        hints: override what would be assumed.
        image: whether it was a model of images; their keys and values are usually pooled less.

    Raises:
        UserError: another architecture, or one that contradicts the hints.
    """
    style = naming.style_of(shapes)
    assumptions: list[str] = []
    blocks = _blocks(shapes, style)
    classes, datasets, head_hidden = _heads(shapes)
    projections = len(datasets) > 1 and all(
        f'head.cross_dataset_heads.{a}_{b}.weight' in shapes
        for a, b in itertools.permutations(datasets, 2)
    )
    expander = shapes.get('expander.fc1.weight')
    model = MultiTrainConfig(
        backbone=_backbone(shapes, style, blocks, hints, image, assumptions),
        num_classes=classes,
        head_hidden=head_hidden,
        projections=projections,
        expander=expander is not None,
        expander_hidden=expander[0] if expander else 2048,
    )
    entries = naming.entries_of(model, style, datasets)
    belongs = re.compile(r'blocks\.|patch_embed\.|conv_proj\.|pos_|cls_|norm\.').match
    check_complete(shapes, entries, belongs, 'MViTv2 as this code has it', 'of the backbone are')
    return Architecture(style, model, datasets, tuple(entries), tuple(assumptions))


def needs_no_array(name: str) -> bool:
    """Whether zeros in an array's place change nothing, so that it may miss: positions in time."""
    return name.endswith('.attn.rel_pos_t')


@dataclasses.dataclass(frozen=True)
class _Block:
    width_in: int
    width: int
    heads: int
    hidden: int  # of the MLP


def _blocks(shapes: Shapes, style: str) -> list[_Block]:
    numbers = {int(match[1]) for name in shapes if (match := re.match(r'blocks\.(\d+)\.', name))}
    pool = 'pool_q.pool' if style == 'torchvision' else 'pool_q'
    mlp = 'mlp.0' if style == 'torchvision' else 'mlp.fc1'
    blocks = []
    for i in range(len(numbers)):
        qkv = _shape(shapes, f'blocks.{i}.attn.qkv.weight')
        head_width = _shape(shapes, f'blocks.{i}.attn.{pool}.weight')[0]
        hidden = _shape(shapes, f'blocks.{i}.{mlp}.weight')[0]
        blocks.append(_Block(qkv[1], qkv[0] // 3, qkv[0] // 3 // head_width, hidden))
    return blocks


def _backbone(
    shapes: Shapes,
    style: str,
    blocks: Sequence[_Block],
    hints: Hints,
    image: bool,
    assumptions: list[str],
) -> MViTConfig:
    name = 'conv_proj' if style == 'torchvision' else 'patch_embed.proj'
    patch = _shape(shapes, f'{name}.weight')
    starts = [0] + [i for i, block in enumerate(blocks) if i and block.width != block.width_in]
    stages = [blocks[start] for start in starts]
    for number, stage in enumerate(stages):
        if stage.width != patch[0] * 2**number or stage.heads != stages[0].heads * 2**number:
            raise UserError(
                f'stage {number + 1} is {stage.width} wide with {stage.heads} heads: this code '
                'knows models whose width and heads double with every stage, inside the attention '
                f'(MViTv2), from {patch[0]} here'
            )
    relative = 'blocks.0.attn.rel_pos_h' in shapes
    config = MViTConfig(
        width=patch[0],
        heads=stages[0].heads,
        stage_blocks=tuple(end - start for start, end in zip(starts, [*starts[1:], len(blocks)])),
        query_strides=((1, 1, 1),) * len(starts),
        patch_kernel=patch[2:],
        mlp_ratio=blocks[0].hidden / blocks[0].width,
        positions='relative' if relative else 'separate',
        class_token='cls_token' in shapes or 'pos_encoding.class_token' in shapes,
        skip_input='raw' if style == 'multitrain' else 'normalised',
        pool_norm_epsilon=1e-5 if style == 'multitrain' else 1e-6,
        distance_rounding='float32' if style == 'pyslowfast' and relative else 'float64',
    )
    patch_stride = hints.patch_stride
    if patch_stride is None:
        patch_stride = tuple((size + 1) // 2 for size in patch[2:])
        assumptions.append(f'patch_stride {patch_stride}: assumed from the kernel {patch[2:]}')
    if hints.query_strides is None and hints.block_query_strides is not None:
        of_stages = _of_stages(hints.block_query_strides, starts)
        hints = dataclasses.replace(hints, query_strides=of_stages)
    config = dataclasses.replace(
        config,
        patch_stride=patch_stride,
        **_clip_size(shapes, relative, patch_stride, hints, assumptions),
    )
    return _with_strides(shapes, config, hints, image, assumptions)


def _of_stages(strides: Mapping[int, Triple], starts: Sequence[int]) -> tuple[Triple, ...]:
    for block, stride in strides.items():
        if block not in starts and max(stride) > 1:
            raise UserError(
                f'block {block} pools its queries inside a stage: here only first blocks of '
                'stages do'
            )
    return tuple(strides.get(start, (1, 1, 1)) for start in starts)


def _clip_size(
    shapes: Shapes, relative: bool, patch_stride: Triple, hints: Hints, assumptions: list[str]
) -> dict[str, int]:
    """`num_frames` and `image_size` that the position tables were learned for."""
    if relative:
        side = (_shape(shapes, 'blocks.0.attn.rel_pos_h')[0] + 1) // 2
        rows = shapes.get('blocks.0.attn.rel_pos_t')
        times = (rows[0] + 1) // 2 if rows else None
    else:
        side = round(_shape(shapes, 'pos_embed_spatial')[1] ** 0.5)
        times = _shape(shapes, 'pos_embed_temporal')[1]
    # Sizes that are no multiple of the stride make the same grid; the hint, then, knows better.
    image_size = side * patch_stride[1]
    if hints.image_size is not None and hints.image_size // patch_stride[1] == side:
        image_size = hints.image_size
    if times is None:
        num_frames = hints.num_frames or _FRAMES
        if hints.num_frames is None:
            assumptions.append(f'num_frames {num_frames}: assumed; the weights do not tell')
    else:
        num_frames = times * patch_stride[0]
        if hints.num_frames is not None and hints.num_frames // patch_stride[0] == times:
            num_frames = hints.num_frames
    return dict(num_frames=num_frames, image_size=image_size)


def _with_strides(
    shapes: Shapes, config: MViTConfig, hints: Hints, image: bool, assumptions: list[str]
) -> MViTConfig:
    """The config with strides of queries, keys, values that agree with the position tables."""
    stages = len(config.stage_blocks)
    if hints.query_strides is not None and len(hints.query_strides) != stages:
        raise UserError(
            f'{len(hints.query_strides)} query strides for {stages} stages: give one for each'
        )
    choices = [((1, 1, 1),), *[_QUERY_STRIDES] * (stages - 1)]
    if hints.query_strides is not None:
        choices = [(stride,) for stride in hints.query_strides]
    kv_choices = _IMAGE_KV_STRIDES if image else _KV_STRIDES
    kv_choices = kv_choices if hints.kv_stride is None else (hints.kv_stride,)
    combinations = sorted(
        itertools.product(kv_choices, *choices),
        key=lambda combination: (  # the most usual first
            sum(choice.index(stride) for choice, stride in zip(choices, combination[1:])),
            kv_choices.index(combination[0]),
        ),
    )
    for kv_stride, *query_strides in combinations:
        strides = dict(kv_stride=kv_stride, query_strides=tuple(query_strides))
        candidate = dataclasses.replace(config, **strides)
        if not config.relative_positions or _tables_fit(shapes, candidate):
            agreeing = ' (they agree with the position tables)' * config.relative_positions
            if hints.query_strides is None:
                assumptions.append(f'query_strides {candidate.query_strides}: assumed{agreeing}')
            if hints.kv_stride is None:
                assumptions.append(f'kv_stride {kv_stride}: assumed{agreeing}')
            return candidate
    which = 'the given strides do not' if len(combinations) == 1 else 'none of the usual strides'
    raise UserError(
        f'{which} agree with the sizes of the relative position tables; give --query_strides, '
        '--kv_stride'
    )


def _tables_fit(shapes: Shapes, config: MViTConfig) -> bool:
    every = [shape for stage in config.block_shapes() for shape in stage]
    for i, block in enumerate(every):
        for axis, rows in zip('thw', block.relative_rows):
            name = f'blocks.{i}.attn.rel_pos_{axis}'
            may_miss = needs_no_array(name) and name not in shapes
            if not may_miss and _shape(shapes, name)[0] != rows:
                return False
    return True


def _heads(shapes: Shapes) -> tuple[tuple[int, ...], tuple[str, ...], int]:
    """(numbers of classes, names of the datasets, hidden width or 0)."""
    for name in ('head.projection.weight', 'head.1.weight'):
        if name in shapes:
            return (shapes[name][0],), (), 0
    pattern = re.compile(r'head\.heads\.(.+?)(\.fc2)?\.weight')
    heads = {
        match[1]: (shape, match[2])
        for name, shape in shapes.items()
        if not name.endswith('.fc1.weight') and (match := pattern.fullmatch(name))
    }
    if not heads:
        raise UserError('no classifier in it (head.projection, head.1 or head.heads.NAME)')
    hidden = {shape[1] if layered else 0 for shape, layered in heads.values()}
    if len(hidden) > 1:
        raise UserError(f'its heads are of different hidden widths: {sorted(hidden)}')
    return tuple(shape[0] for shape, _ in heads.values()), tuple(heads), hidden.pop()


def check_complete(
    shapes: Shapes,
    entries: Sequence[naming.Entry],
    belongs: Callable[[str], Any],
    than: str,
    are: str = 'are',
) -> None:
    """Refuses a model with a part missing, or one that ours lacks: it computes something else.

    Args:
        shapes: of all arrays.
        entries: places of those that ours has.
        belongs: whether an array of this name must have a place in ours.
        than, are: words of the message, what it is not and which arrays are unknown.
    """
    known = dict.fromkeys(entry.name for entry in entries)
    missing = [name for name in known if name not in shapes and not needs_no_array(name)]
    unknown = [name for name in shapes if name not in known and belongs(name)]
    if missing or unknown:
        example = f'{missing[0]} is missing' if missing else f'{unknown[0]} has no place in ours'
        raise UserError(
            f'another architecture than {than}: {len(known) - len(missing)} of {len(known)} '
            f'expected arrays are there, {len(unknown)} {are} unknown; for example, {example}'
        )


def _shape(shapes: Shapes, name: str) -> tuple[int, ...]:
    if name not in shapes:
        raise UserError(f'another architecture than MViTv2 as this code has it: {name} is missing')
    return tuple(shapes[name])
