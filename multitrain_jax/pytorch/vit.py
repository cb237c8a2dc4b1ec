"""Plain video transformers under the names of transformers (Hugging Face) and of their authors.

Which architecture a state dict is, and the places of its arrays in our model. transformers' config
says all of it; the authors' files hold arrays only, whose shapes do not tell heads and sizes of
clips.
"""

from collections.abc import Collection, Iterator, Mapping
import dataclasses
import re
from typing import Any

from multitrain_jax.errors import UserError
from multitrain_jax.models.multitrain import MultiTrainConfig
from multitrain_jax.models.vit import ViTConfig
from multitrain_jax.pytorch.architecture import Architecture, Hints, Shapes, check_complete
from multitrain_jax.pytorch.naming import Entry, linear_entries, norm_entries


@dataclasses.dataclass(frozen=True)
class Names:
    """What the arrays are called; `{}` is the number of a block."""

    base: str  # prefix of the backbone's names where heads are beside it
    patch: str  # convolution of the tubelets
    block: str  # prefix of a block's names
    norm1: str  # before the attention
    qkv: tuple[str, ...]  # one linear layer, or those of queries, keys and values
    qv_bias: tuple[str, ...]  # biases of queries and values where keys have none
    output: str  # after the attention
    norm2: str  # before the MLP
    fc1: str  # of the MLP
    fc2: str  # likewise
    norm: str  # the final one, of the tokens
    norm_of_mean: str  # the final one, of their mean; bears no `base`
    classifier: str  # bears no `base`
    elsewhere: str  # pattern of arrays that only training, or another task, needs


_VIDEOMAE = Names(
    base='videomae.',
    patch='embeddings.patch_embeddings.projection',
    block='encoder.layer.{}.',
    norm1='layernorm_before',
    qkv=tuple(f'attention.attention.{name}' for name in ('query', 'key', 'value')),
    qv_bias=('attention.attention.q_bias', 'attention.attention.v_bias'),
    output='attention.output.dense',
    norm2='layernorm_after',
    fc1='intermediate.dense',
    fc2='output.dense',
    norm='layernorm',
    norm_of_mean='fc_norm',
    classifier='classifier',
    elsewhere=r'decoder\.|encoder_to_decoder\.|mask_token|position_embeddings',
)
_AUTHORS = Names(
    base='encoder.',
    patch='patch_embed.proj',
    block='blocks.{}.',
    norm1='norm1',
    qkv=('attn.qkv',),
    qv_bias=('attn.q_bias', 'attn.v_bias'),
    output='attn.proj',
    norm2='norm2',
    fc1='mlp.fc1',
    fc2='mlp.fc2',
    norm='norm',
    norm_of_mean='fc_norm',
    classifier='head',
    elsewhere=r'decoder\.|encoder_to_decoder\.|mask_token',
)
NAMES = {
    'videomae': _VIDEOMAE,
    'vivit': dataclasses.replace(_VIDEOMAE, base='vivit.', elsewhere=r'pooler\.'),
    'vjepa2': Names(
        base='vjepa2.',
        patch='encoder.embeddings.patch_embeddings.proj',
        block='encoder.layer.{}.',
        norm1='norm1',
        qkv=tuple(f'attention.{name}' for name in ('query', 'key', 'value')),
        qv_bias=(),
        output='attention.proj',
        norm2='norm2',
        fc1='mlp.fc1',
        fc2='mlp.fc2',
        norm='encoder.layernorm',
        norm_of_mean='',
        classifier='classifier',
        elsewhere=r'predictor\.',
    ),
    "VideoMAE's authors": _AUTHORS,
    "V-JEPA 2's authors": _AUTHORS,
}

# Of the blocks of V-JEPA 2's pooler.
_POOLER = dataclasses.replace(
    NAMES['vjepa2'],
    norm1='layer_norm1',
    qkv=tuple(f'self_attn.{letter}_proj' for letter in 'qkv'),
    output='self_attn.out_proj',
    norm2='layer_norm2',
)

# Of transformers' configs, what a file may leave out.
_BASE = dict(
    image_size=224,
    num_channels=3,
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
)
_DEFAULTS = {
    'videomae': dict(
        **_BASE,
        patch_size=16,
        num_frames=16,
        tubelet_size=2,
        hidden_act='gelu',
        layer_norm_eps=1e-12,
        qv_bias=True,
        use_mean_pooling=True,
    ),
    'vivit': dict(
        **_BASE,
        num_frames=32,
        tubelet_size=[2, 16, 16],
        hidden_act='gelu_fast',
        layer_norm_eps=1e-6,
        qkv_bias=True,
    ),
    'vjepa2': dict(
        patch_size=16,
        crop_size=256,
        frames_per_clip=64,
        tubelet_size=2,
        hidden_size=1024,
        in_chans=3,
        num_attention_heads=16,
        num_hidden_layers=24,
        mlp_ratio=4.0,
        layer_norm_eps=1e-6,
        qkv_bias=True,
        hidden_act='gelu',
        num_pooler_layers=3,
    ),
}
_ACTIVATIONS = {
    'gelu': 'exact',
    'gelu_python': 'exact',
    'gelu_fast': 'tanh',
    'gelu_new': 'tanh',
    'gelu_pytorch_tanh': 'tanh',
    'gelu_accurate': 'tanh',
}
# Attention heads by width, which the authors' files do not tell.
_VIDEOMAE_HEADS = {384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}
_VJEPA2_HEADS = {384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 22, 1664: 26}


def is_plain(shapes: Collection[str]) -> bool:
    """Whether these are the names of a plain transformer in its authors' code."""
    qkv = re.compile(r'(^|\.)blocks\.0\.attn\.qkv\.weight$')
    return any(map(qkv.search, shapes)) and not any('.attn.pool_' in name for name in shapes)


def recognise(
    shapes: Shapes, hints: Hints, config: Mapping[str, Any] | None, *, heads: int | None = None
) -> Architecture:
    """Reads the architecture.

    Args:
        shapes: of all arrays.
        hints: size of the clips, where nothing tells it.
        config: transformers' description (config.json); None: the authors' file.
        heads: of each attention, likewise.

    Raises:
        UserError: another architecture, or a part is missing.
    """
    assumptions: list[str] = []
    if config is None:
        style, backbone = _from_shapes(shapes, hints, heads, assumptions)
    else:
        style, backbone = _from_config(shapes, config)
    names = NAMES[style]
    classifier = f'{names.classifier}.weight'
    classes = (tuple(shapes[classifier])[0],) if classifier in shapes else ()
    model = MultiTrainConfig(
        backbone=backbone, num_classes=classes, head_hidden=0, projections=False, expander=False
    )
    entries = list(entries_of(model, style, shapes))
    inside = re.compile(rf'({re.escape(names.base)}|encoder\.|embeddings\.|blocks\.|pooler\.)')

    def belongs(name: str) -> bool:
        outside = re.match(names.elsewhere, name.removeprefix(names.base))
        return inside.match(name) is not None and outside is None

    check_complete(shapes, entries, belongs, 'its description says')
    if not classes:
        assumptions.append('no classifier in it: the backbone alone is imported')
    return Architecture(style, model, (), tuple(entries), tuple(assumptions))


def entries_of(
    model: MultiTrainConfig, style: str, present: Collection[str] | None = None
) -> Iterator[Entry]:
    """Places of all arrays.

    Args:
        model: our architecture, of one linear head or none.
        style: key of `NAMES`.
        present: names in a file, which may lack the backbone's prefix; None: as transformers
            writes.
    """
    names, config = NAMES[style], model.backbone
    base = names.base
    if present is not None and not any(name.startswith(f'{base}{names.patch}') for name in present):
        base = ''
    yield Entry(f'{base}{names.patch}.weight', 'backbone/patch_kernel', (), 'patch')
    yield Entry(f'{base}{names.patch}.bias', 'backbone/patch_bias')
    if config.class_token:
        yield Entry(f'{base}embeddings.cls_token', 'backbone/class_token', (), 'token')
    if config.positions == 'learned':
        position = f'{base}embeddings.position_embeddings'
        yield Entry(position, 'backbone/class_position', (), 'lead', (0, slice(1)))
        grid = config.position_grid or config.patch_grid
        yield Entry(position, 'backbone/positions', (), grid, (0, slice(1, None)))
    for i in range(config.blocks):
        yield from _block(
            config, names, base + names.block.format(i), 'backbone/blocks', (i,), present
        )
    if config.pooling == 'norm_of_mean' and names.norm_of_mean:
        # The authors call it `norm` where it was trained on tokens.
        yield from norm_entries(names.norm_of_mean, 'backbone/norm', ())
    else:
        yield from norm_entries(base + names.norm, 'backbone/norm', ())
    if config.pooling == 'attentive':
        yield from _pooler(config)
    if model.num_classes:
        classes = slice(0, model.num_classes[0])
        yield from linear_entries(names.classifier, 'heads', (0,), classes)


def _block(
    config: ViTConfig,
    names: Names,
    name: str,
    path: str,
    part: tuple,
    present: Collection[str] | None,
) -> Iterator[Entry]:
    width = config.width
    yield from norm_entries(name + names.norm1, f'{path}/norm1', part)
    qkv = [name + layer for layer in names.qkv]
    thirds = [slice(i * width, (i + 1) * width) for i in range(3)]
    bias = config.attention_bias == 'qkv'
    for layer, columns in zip(qkv, thirds if len(qkv) > 1 else [None]):
        yield from linear_entries(layer, f'{path}/attention/qkv', part, columns, bias=bias)
    if config.attention_bias == 'qv':
        biases = [name + bias for bias in names.qv_bias]
        if present is not None and biases[0] not in present and len(qkv) > 1:
            biases = [f'{qkv[0]}.bias', f'{qkv[2]}.bias']  # transformers 5, in memory
        for bias, third in zip(biases, thirds):
            yield Entry(bias, f'{path}/attention/qv_bias', (*part, third))
    yield from linear_entries(name + names.output, f'{path}/attention/output', part)
    yield from norm_entries(name + names.norm2, f'{path}/norm2', part)
    yield from linear_entries(name + names.fc1, f'{path}/mlp/fc1', part)
    yield from linear_entries(name + names.fc2, f'{path}/mlp/fc2', part)


def _pooler(config: ViTConfig) -> Iterator[Entry]:
    """V-JEPA 2's attentive pooler, as transformers names it."""
    ours, width = 'backbone/pooler', config.width
    yield Entry('pooler.query_tokens', f'{ours}/query', (), 'token')
    config = dataclasses.replace(config, attention_bias='qkv')
    for i in range(config.pooler_blocks):
        name = f'pooler.self_attention_layers.{i}.'
        yield from _block(config, _POOLER, name, f'{ours}/blocks', (i,), None)
    name = 'pooler.cross_attention_layer.'
    yield from norm_entries(f'{name}layer_norm1', f'{ours}/norm1', ())
    yield from linear_entries(f'{name}cross_attn.q_proj', f'{ours}/of_query', ())
    for j, letter in enumerate('kv'):
        layer, half = f'{name}cross_attn.{letter}_proj', slice(j * width, (j + 1) * width)
        yield from linear_entries(layer, f'{ours}/of_tokens', (), half)
    yield from norm_entries(f'{name}layer_norm2', f'{ours}/norm2', ())
    for layer in ('fc1', 'fc2'):
        yield from linear_entries(f'{name}mlp.{layer}', f'{ours}/mlp/{layer}', ())


def _from_config(shapes: Shapes, config: Mapping[str, Any]) -> tuple[str, ViTConfig]:
    """(style, architecture) of a description by transformers."""
    style = config.get('model_type')
    if style not in _DEFAULTS:
        raise UserError(
            f'config.json: model_type={style!r} is another architecture; known are '
            f'{", ".join(_DEFAULTS)}'
        )
    values = {name: config.get(name, usual) for name, usual in _DEFAULTS[style].items()}
    for name, usual in _DEFAULTS[style].items():
        allowed = (int, list) if name.endswith('_size') else type(usual)
        given = values[name]
        if type(usual) is float and type(given) is int:
            given = values[name] = float(given)
        if not isinstance(given, allowed):
            raise UserError(f'config.json: {name}={given!r} must look like {usual!r}')
    if values.get('num_channels', values.get('in_chans')) != 3:
        raise UserError('config.json: another number of colour channels than 3')
    if values['hidden_act'] not in _ACTIVATIONS:
        raise UserError(
            f'config.json: hidden_act={values["hidden_act"]!r} is none of {", ".join(_ACTIVATIONS)}'
        )
    tubelet, width = values['tubelet_size'], values['hidden_size']
    stride = tubelet if style == 'vivit' else [tubelet, *_pair(values['patch_size'])]
    size = _pair(values['crop_size' if style == 'vjepa2' else 'image_size'])
    frames = values['frames_per_clip' if style == 'vjepa2' else 'num_frames']
    common = dict(
        num_frames=frames,
        image_size=size[0],
        width=width,
        blocks=values['num_hidden_layers'],
        heads=values['num_attention_heads'],
        patch_stride=tuple(stride),
        activation=_ACTIVATIONS[values['hidden_act']],
        norm_epsilon=values['layer_norm_eps'],
    )
    try:
        grid = tuple(n // s for n, s in zip((frames, *size), stride, strict=True))
        if style == 'vjepa2':
            pooled = 'pooler.query_tokens' in shapes
            backbone = ViTConfig(
                **common,
                mlp_width=int(width * values['mlp_ratio']),
                positions='rotary',
                pooling='attentive' if pooled else 'mean',
                pooler_blocks=values['num_pooler_layers'] if pooled else 0,
                attention_bias='qkv' if values['qkv_bias'] else 'none',
            )
        elif style == 'vivit':
            backbone = ViTConfig(
                **common,
                mlp_width=values['intermediate_size'],
                positions='learned',
                position_grid=None if size[0] == size[1] else grid,
                class_token=True,
                pooling='first',
                attention_bias='qkv' if values['qkv_bias'] else 'none',
            )
        else:
            pooling = 'mean'
            if 'classifier.weight' in shapes or values['use_mean_pooling']:
                pooling = 'norm_of_mean' if values['use_mean_pooling'] else 'first'
            backbone = ViTConfig(
                **common,
                mlp_width=values['intermediate_size'],
                position_grid=grid,
                pooling=pooling,
                attention_bias='qv' if values['qv_bias'] else 'none',
            )
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f'config.json: {error}') from error
    return style, backbone


def _from_shapes(
    shapes: Shapes, hints: Hints, heads: int | None, assumptions: list[str]
) -> tuple[str, ViTConfig]:
    """(style, architecture) of a file of the authors."""
    base = 'encoder.' if 'encoder.patch_embed.proj.weight' in shapes else ''
    for name in ('patch_embed.proj', 'blocks.0.mlp.fc1'):
        if f'{base}{name}.weight' not in shapes:
            missing = f'{base}{name}.weight is missing'
            raise UserError(f'another architecture than a plain video transformer: {missing}')
    patch = tuple(shapes[f'{base}patch_embed.proj.weight'])
    if len(patch) != 5 or patch[1] != 3:
        raise UserError(f'{base}patch_embed.proj.weight is {list(patch)}: no tubelets of a video')
    if f'{base}pos_embed' in shapes:
        unknown = 'learned positions in a file of the authors are not known'
        raise UserError(f'{base}pos_embed: {unknown}')
    width = patch[0]
    videomae = f'{base}blocks.0.attn.q_bias' in shapes
    style = "VideoMAE's authors" if videomae else "V-JEPA 2's authors"
    known = (_VIDEOMAE_HEADS if videomae else _VJEPA2_HEADS).get(width)
    if heads is None:
        heads = known or max(width // 64, 1)
        assumptions.append(f'{heads} attention heads: assumed from the width {width}')
    usual = (16, 14 * patch[3] if patch[3] == 16 else 16 * patch[3]) if videomae else (64, 256)
    num_frames, image_size = hints.num_frames or usual[0], hints.image_size or usual[1]
    if hints.num_frames is None:
        assumptions.append(f'num_frames {num_frames}: assumed; the weights do not tell')
    if hints.image_size is None:
        assumptions.append(f'image_size {image_size}: assumed; the weights do not tell')
    numbers = {
        int(match[1]) for name in shapes if (match := re.match(rf'{base}blocks\.(\d+)\.', name))
    }
    grid = tuple(n // s for n, s in zip((num_frames, image_size, image_size), patch[2:]))
    biases = 'qkv' if f'{base}blocks.0.attn.qkv.bias' in shapes else 'none'
    try:
        return style, ViTConfig(
            num_frames=num_frames,
            image_size=image_size,
            width=width,
            blocks=len(numbers),
            heads=heads,
            mlp_width=shapes[f'{base}blocks.0.mlp.fc1.weight'][0],
            patch_stride=patch[2:],
            positions='sine' if videomae else 'rotary',
            position_grid=grid if videomae else None,
            pooling='norm_of_mean' if 'fc_norm.weight' in shapes else 'mean',
            attention_bias='qv' if videomae else biases,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def _pair(value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2:
        raise UserError(f'config.json: {value} must be one size, or two')
    return pair
