"""Turns published weights of MViTv2, VideoMAE, V-JEPA 2 or ViViT into a model of ours.

    python -m multitrain_jax.import_torch MViTv2_B_32x3_k400.pyth --output=imports/k400 \\
        --dataset=kinetics400 --classes=k400.txt
    python -m multitrain_jax.import_torch videomae-base-finetuned-kinetics --output=imports/videomae

Takes the files of PySlowFast, MultiTrain (the authors' code), torchvision, VideoMAE, VideoMAE V2
and V-JEPA 2, and directories in the layout of Hugging Face's transformers. The output is what
`multitrain_jax.load`, `predict` and `config.init_from` read. The architecture is recognised from
names and shapes, or read from config.json; every key and what became of it is printed and kept in
OUTPUT/import.txt. Image models of MViTv2 (ImageNet) are inflated in time. Files of PyTorch need
PyTorch, .safetensors do not: pip install torch pyyaml
"""

import argparse
import collections
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
from pathlib import Path
import sys
from typing import Any

from flax import nnx, traverse_util
import jax
import numpy as np

from multitrain_jax.augment.normalize import IMAGENET_MEAN, IMAGENET_STD, MEAN, STD, Rgb
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.checkpoints.exports import ModelInfo, check_output, is_export, write_export
from multitrain_jax.errors import ArgumentParser, UserError, run_command
from multitrain_jax.models.multitrain import MultiTrainConfig, MultiTrainModel
from multitrain_jax.ops.windows import Triple
from multitrain_jax.pytorch import inflate, naming, vit
from multitrain_jax.pytorch.architecture import Architecture, Hints, recognise
from multitrain_jax.pytorch.checkpoint import Settings, read_settings, read_torch
from multitrain_jax.pytorch.huggingface import Directory, read_directory, settings_of
from multitrain_jax.weights import warm_start
from multitrain_jax.weights.positions import resize_positions
from multitrain_jax.weights.weight_report import Row, shape_text, summary, table

_TABLE_FILE = 'import.txt'
_USUAL_DATASETS = {
    400: 'kinetics400',
    600: 'kinetics600',
    700: 'kinetics700',
    174: 'something_v2',
    1000: 'imagenet',
}
_UNIFORM = ('ssv2', 'something')  # in names of datasets whose clips usually span the whole video


@dataclasses.dataclass(frozen=True)
class Options:
    """What the user says; None (or nothing): from the checkpoint, or the usual.

    Attributes:
        datasets: new names of the heads, by their names in the checkpoint; '' stands for a single
            unnamed one.
        classes: files of class names, by the (new) name of the dataset; '' likewise.
        num_frames: of clips; positions are interpolated.
        image_size: pixels; likewise.
        patch_stride: of the patch convolution.
        query_strides: of every stage's first block.
        kv_stride: of keys and values in stage 1.
        stride: step between frames of a clip.
        target_frame_rate: frames per second that `stride` counts in.
        uniform: (new) names of datasets whose clips span the whole video.
        multi_label: (new) names of datasets whose scores are sigmoids.
        mean: of pixels scaled to 0..1.
        std: likewise.
        short_side: pixels of test videos before cropping.
        inflation: 'centre' or 'mean', for image models.
        heads: of each attention, for the files of plain transformers' authors.
    """

    datasets: Mapping[str, str] = dataclasses.field(default_factory=dict)
    classes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    num_frames: int | None = None
    image_size: int | None = None
    patch_stride: Triple | None = None
    query_strides: tuple[Triple, ...] | None = None
    kv_stride: Triple | None = None
    stride: int | None = None
    target_frame_rate: float | None = None
    uniform: Sequence[str] = ()
    multi_label: Sequence[str] = ()
    mean: Rgb | None = None
    std: Rgb | None = None
    short_side: int | None = None
    inflation: str = 'centre'
    heads: int | None = None


def import_state_dict(
    state_dict: Mapping[str, np.ndarray],
    output: str,
    options: Options,
    *,
    settings_text: str | None = None,
    directory: Directory | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Writes a state dict as an export; returns the report.

    Args:
        state_dict: arrays by name.
        output: directory of the export.
        options: what the user says.
        settings_text: PySlowFast's configuration, if it came along.
        directory: of transformers, that the state dict comes from.
        notes: lines about the file, for the report.

    Raises:
        UserError: another architecture, or options that do not fit.
    """
    target = check_output(output)
    if directory is not None and options.heads is not None:
        raise UserError(
            f'--heads={options.heads}: config.json says how many heads there are; leave --heads out'
        )
    notes = list(notes)
    settings = _settings(settings_text, notes) if directory is None else settings_of(directory)
    image = inflate.is_image_model(state_dict)
    arrays, inflated = inflate.inflate(state_dict, options.inflation)
    shapes = {name: array.shape for name, array in arrays.items()}
    hints = _hints(options, settings, image)
    if directory is not None or vit.is_plain(shapes):
        config = None if directory is None else directory.config
        found = vit.recognise(shapes, hints, config, heads=options.heads)
        _check_square(config or {}, options)
    else:
        found = recognise(shapes, hints, image=image)
    notes += found.assumptions
    params = {
        path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in _flat_shapes(found.model).items()
    }
    params, report = naming.from_torch(arrays, found.entries, params)
    model, resized = _resize(params, found.model, options)

    missing, in_time, rows = set(report.missing), set(inflated), []
    for entry in found.entries:
        if entry.name in missing:
            rows.append(Row(entry.name, 'missing', f'zeros, which change nothing -> {entry.path}'))
            continue
        said = [f'{shape_text(np.shape(state_dict[entry.name]))} -> {entry.path}']
        if entry.name in in_time:
            said.append(f'inflated in time ({options.inflation})')
        if entry.path in resized:
            said.append(f'interpolated {resized[entry.path]}')
        outcome = 'resized' if entry.path in resized else 'used'
        rows.append(Row(entry.name, outcome, ', '.join(said)))
    for name in report.ignored:
        rows.append(Row(name, 'ignored', shape_text(np.shape(state_dict[name]))))

    info, backbone = _describe(found, model, options, settings, image, notes), model.backbone
    heads = [f'{name}: {len(own.classes)} classes' for name, own in info.datasets.items()]
    lines = [table(rows), *(f'note: {note}' for note in notes)]
    lines.append(
        f'{found.style} weights, {backbone.num_frames} frames of {backbone.image_size} px, '
        f'{backbone.depth} blocks, width {backbone.width}; {", ".join(heads) or "no head"}'
    )
    text = '\n'.join([*lines, summary(rows)])
    tree = traverse_util.unflatten_dict({_keys(path): array for path, array in params.items()})
    write_export(target, info, tree)
    (target / _TABLE_FILE).write_text(f'{text}\n', encoding='utf-8')
    return text


def _check_square(config: Mapping[str, Any], options: Options) -> None:
    size = config.get('image_size')
    if isinstance(size, list) and len(set(size)) > 1 and options.image_size is None:
        raise UserError(
            f'made for clips of {" x ".join(map(str, size))} pixels, and clips are square here: '
            'give --image_size; positions are interpolated'
        )


def _flat_shapes(model: MultiTrainConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a model's parameters by path."""
    state = nnx.state(nnx.eval_shape(lambda: MultiTrainModel(model, rngs=nnx.Rngs(0))))
    return warm_start.flatten(nnx.to_pure_dict(state))


def _keys(path: str) -> tuple[str | int, ...]:
    """Keys of a parameter in nested dicts; stages are numbered."""
    return tuple(int(key) if key.isdecimal() else key for key in path.split('/'))


def _resize(
    params: dict[str, np.ndarray], model: MultiTrainConfig, options: Options
) -> tuple[MultiTrainConfig, dict[str, str]]:
    """Interpolates positions, in place, for the user's size of clips: (model, what was resized)."""
    backbone = dataclasses.replace(
        model.backbone,
        num_frames=options.num_frames or model.backbone.num_frames,
        image_size=options.image_size or model.backbone.image_size,
    )
    model, resized = dataclasses.replace(model, backbone=backbone), {}
    for path, leaf in _flat_shapes(model).items():
        if params[path].shape != leaf.shape:
            resized[path] = f'{shape_text(params[path].shape)} -> {shape_text(leaf.shape)}'
            params[path] = resize_positions(path, params[path], leaf.shape)
    return model, resized


def _settings(text: str | None, notes: list[str]) -> Settings:
    if text is None:
        return Settings()
    try:
        settings = read_settings(text)
    except ValueError as error:
        notes.append(f'the configuration in the checkpoint is not used: {error}')
        return Settings()
    if settings.detection:
        raise UserError(
            'its head is for boxes (DETECTION.ENABLE), which are not imported; give a '
            'classification checkpoint'
        )
    return settings


def _hints(options: Options, settings: Settings, image: bool) -> Hints:
    """Strides and sizes: the user's word first, then the checkpoint's configuration."""
    return Hints(
        num_frames=options.num_frames if image else settings.num_frames or options.num_frames,
        image_size=settings.image_size,
        patch_stride=options.patch_stride or settings.patch_stride,
        query_strides=options.query_strides,
        block_query_strides=settings.query_strides,
        kv_stride=options.kv_stride or settings.kv_stride,
    )


def _describe(
    found: Architecture,
    model: MultiTrainConfig,
    options: Options,
    settings: Settings,
    image: bool,
    notes: list[str],
) -> ModelInfo:
    """The export's description: datasets and preprocessing."""

    def known(option, setting, usual, what: str):
        if option is None and setting is None:
            notes.append(f'{what} {usual}: assumed')
        return next(value for value in (option, setting, usual) if value is not None)

    names = _dataset_names(found, options, settings, notes)
    usual = 2 if found.style == 'vivit' else 4
    stride = known(options.stride, settings.stride, usual, 'stride')
    rate = known(options.target_frame_rate, settings.target_frame_rate, 30.0, 'target_frame_rate')
    _check_names('--uniform', options.uniform, names)
    _check_names('--multi_label', options.multi_label, names)
    _check_names('--classes', [name for name in options.classes if name], names)
    if '' in options.classes and len(names) > 1:
        raise UserError(
            f'--classes={options.classes[""]}: of which dataset? '
            f'Write --classes=NAME=FILE, NAME one of {", ".join(names)}'
        )
    imagenet = image or found.style in vit.NAMES
    sigmoid = settings.sigmoid if len(settings.sigmoid) == len(names) else (False,) * len(names)
    datasets = {}
    for name, count, activation in zip(names, model.num_classes, sigmoid):
        file = options.classes.get(name) or options.classes.get('')
        classes = _distinct(settings.classes) if file is None else read_classes(file, count)
        if classes is not None and len(classes) != count:
            raise UserError(f'config.json: {len(classes)} names in id2label for {count} classes')
        if classes is None:
            notes.append(
                f'{name}: class names not given (--classes): classes are called "class 0", '
                '"class 1", ...'
            )
        uniform = name in options.uniform or settings.uniform
        if uniform is None and any(part in name.lower() for part in _UNIFORM):
            uniform = True
            notes.append(f'{name}: clips span the whole video: assumed from its name')
        datasets[name] = DatasetSpec(
            name,
            classes or tuple(f'class {c}' for c in range(count)),
            name in options.multi_label or activation,
            sampling='uniform' if uniform else 'strided',
            stride=1 if uniform else stride,
            target_frame_rate=None if uniform else rate,
        )
    return ModelInfo(
        model=model,
        datasets=datasets,
        mean=known(options.mean, settings.mean, IMAGENET_MEAN if imagenet else MEAN, 'mean'),
        std=known(options.std, settings.std, IMAGENET_STD if imagenet else STD, 'std'),
        short_side=max(options.short_side or settings.short_side or 256, model.backbone.image_size),
        temporal_views=settings.temporal_views or 5,
        spatial_views=settings.spatial_views if settings.spatial_views in (1, 3) else 1,
    )


def _dataset_names(
    found: Architecture, options: Options, settings: Settings, notes: list[str]
) -> list[str]:
    if not found.model.num_classes:
        _check_names('--dataset', options.datasets, [])
        return []
    if found.datasets:
        theirs = list(found.datasets)
        _check_names('--dataset', options.datasets, theirs)
        names = [options.datasets.get(name, name) for name in theirs]
    elif options.datasets:
        if list(options.datasets) != ['']:
            raise UserError('--dataset: this checkpoint has one unnamed head; write --dataset=NAME')
        names = [options.datasets['']]
    else:
        count = found.model.num_classes[0]
        if settings.uniform is not None and settings.dataset:  # we wrote it
            return [settings.dataset]
        names = [_USUAL_DATASETS.get(count) or settings.dataset or 'dataset']
        notes.append(
            f'dataset {names[0]}: assumed from its {count} classes; --dataset=NAME names it'
        )
    if len(set(names)) < len(names):
        raise UserError(f'--dataset: two datasets of one name among {", ".join(names)}')
    return names


def _distinct(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Class names, of which no two may be equal: a number behind one that came before."""
    if names is None:
        return None
    seen, result = collections.Counter(), []
    for name in names:
        seen[name] += 1
        result.append(name if seen[name] == 1 else f'{name} ({seen[name]})')
    return tuple(result)


def _check_names(flag: str, given: Iterable[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise UserError(
                f'{flag}: no dataset {name!r} in this checkpoint; it has {", ".join(known)}'
            )


def read_classes(path: str, count: int) -> tuple[str, ...]:
    """Class names in the order of their numbers.

    Args:
        path: a list of classes, in any of the forms of `data_pipelines.annotations.class_lists`.
        count: how many there must be.

    Raises:
        UserError: the file cannot be read or holds others.
    """
    from data_pipelines.annotations.class_lists import read_class_list

    try:
        found = read_class_list(Path(path).expanduser())
    except ValueError as error:
        raise UserError(f'--classes={path}: cannot be read ({error})') from error
    names = found.names
    if len(names) != count or len(set(names)) != count:
        text = f'{len(set(names))} different names for the {count} classes of the checkpoint'
        try:
            found.check_different()
        except ValueError as error:
            text += f' ({error})'
        raise UserError(f'--classes={path}: {text}')
    return names


def main() -> int:
    parser = _parser()
    args = parser.parse_args()
    if args.checkpoint is None:
        args.checkpoint = args.file
    elif args.file is not None:
        parser.error(f'{args.file} and --checkpoint={args.checkpoint} are both given')
    if args.checkpoint is None:
        parser.error('FILE is missing: a PyTorch checkpoint, or a Hugging Face directory')
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Options)}
    given['datasets'] = _assignments('--dataset', args.datasets)
    given['classes'] = _assignments('--classes', args.classes)
    for name, of in (('patch_stride', int), ('kv_stride', int), ('mean', float), ('std', float)):
        given[name] = _triple(f'--{name}', given[name], of)
    if args.query_strides is not None:
        strides = args.query_strides.split(';')
        given['query_strides'] = tuple(_triple('--query_strides', stride) for stride in strides)
    options = Options(**given)
    directory, text, notes = None, None, []
    place = Path(args.checkpoint).expanduser()
    if not place.exists():
        raise UserError(f'--checkpoint={args.checkpoint}: no such file or directory')
    if is_export(place):
        raise UserError(
            f'--checkpoint={args.checkpoint}: a model of ours already; use it as it is: '
            f'python -m multitrain_jax.predict {args.checkpoint} VIDEO...'
        )
    if place.is_dir() or args.checkpoint.endswith('.safetensors'):
        directory = read_directory(args.checkpoint)
        state_dict = directory.arrays
    else:
        state_dict, text = read_torch(args.checkpoint, args.key, notes)
    try:
        report = import_state_dict(
            state_dict,
            args.output,
            options,
            settings_text=text,
            directory=directory,
            notes=notes,
        )
    except ValueError as error:
        named = str(error).startswith('--')
        raise (error if named else UserError(f'--checkpoint={args.checkpoint}: {error}')) from error
    print(report)
    print(f'imported to {args.output}', file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser('multitrain_jax.import_torch', __doc__)
    add = parser.add_argument
    add('file', nargs='?', metavar='FILE', help='.pyth, .pth or .pt, or a Hugging Face directory')
    add('--checkpoint', metavar='FILE', help='FILE, said in another way')
    add('--key', help='which of the state dicts in a file: encoder, target_encoder, model_ema, ...')
    add('--output', required=True, help='directory of the import; an older one there is replaced')
    add(
        '--dataset',
        dest='datasets',
        action='append',
        default=[],
        metavar='[THEIRS=]NAME',
        help='name of the dataset of the head; of several heads, the new name of one',
    )
    add(
        '--classes',
        action='append',
        default=[],
        metavar='[NAME=]FILE',
        help='class names: one per line, id,name lines, classInd.txt or JSON',
    )
    frames = dict(dest='num_frames', type=int, metavar='FRAMES')
    add('--frames', **frames, help='frames of a clip; learned positions are interpolated')
    add('--image_size', type=int, help='pixels; likewise')
    add('--stride', type=int, help='step between frames of a clip')
    add('--target_frame_rate', type=float, help='frames per second that --stride counts in')
    add(
        '--uniform',
        action='append',
        default=[],
        metavar='NAME',
        help='dataset whose clips span the whole video',
    )
    add(
        '--multi_label',
        action='append',
        default=[],
        metavar='NAME',
        help='dataset whose scores are sigmoids',
    )
    add('--mean', metavar='R,G,B', help='of pixels scaled to 0..1')
    add('--std', metavar='R,G,B', help='likewise')
    add('--short_side', type=int, help='pixels of test videos before cropping (default: 256)')
    add(
        '--patch_stride',
        metavar='T,H,W',
        help='of the patch convolution, where it is not the usual one',
    )
    add('--query_strides', metavar='T,H,W;T,H,W;...', help="of every stage's first block, likewise")
    add('--kv_stride', metavar='T,H,W', help='of keys and values in stage 1, likewise')
    add(
        '--inflate',
        dest='inflation',
        choices=['centre', 'mean'],
        default='centre',
        help='image models: kernels on the middle frame (exact on still clips), or spread evenly '
        'over three',
    )
    add('--heads', type=int, help="of each attention; for the files of plain transformers' authors")
    return parser


def _assignments(flag: str, values: Sequence[str]) -> dict[str, str]:
    """{'a': 'b'} of ['a=b']; {'': 'b'} of ['b']."""
    result = {}
    for value in values:
        name, _, rest = value.rpartition('=')
        if name in result or not rest:
            raise UserError(f'{flag}={value}: empty, or given twice')
        result[name] = rest
    return result


def _triple(flag: str, text: str | None, of: type = int) -> tuple | None:
    if text is None:
        return None
    try:
        a, b, c = (of(part) for part in text.split(','))
    except ValueError as error:
        example = '0.45,0.45,0.45' if of is float else '2,4,4'
        raise UserError(f'{flag}={text}: must be three numbers, such as {example}') from error
    if min(a, b, c) <= 0:
        raise UserError(f'{flag}={text}: numbers must be positive')
    return a, b, c


if __name__ == '__main__':
    run_command(main)
