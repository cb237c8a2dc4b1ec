"""A run on one page of HTML: curves, figures, mistakes, clips, settings; also while it trains.

What is there is shown, what is missing is said in one line. Nothing in the workdir but the page is
written, and no accelerator is used.
"""

from collections.abc import Generator, Iterator, Mapping
import csv
import dataclasses
import datetime
import json
import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from multitrain_jax import config_reading
from multitrain_jax.atomic import complete_or_absent
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.checkpoints import exports
from multitrain_jax.checkpoints.trained_model import TrainedModel, open_trained
from multitrain_jax.config import Config, read_stored_config, runs_code
from multitrain_jax.errors import UserError
from multitrain_jax.evaluation import files, predictions, results
from multitrain_jax.evaluation.box_metrics import frequency_thirds
from multitrain_jax.evaluation.metrics import (
    FIGURES,
    THIRDS,
    DatasetResult,
    Scores,
    confusion_matrix,
    most_mistaken,
)
from multitrain_jax.reporting import page
from multitrain_jax.reporting.curves import read_curves
from multitrain_jax.reporting.heat_map import MOST_NAMES
from multitrain_jax.reporting.projections import projections_of, shown_classes
from multitrain_jax.training import preview
from multitrain_jax.training.board import changed_settings
from multitrain_jax.training.workdir import CONFIG_FILE, VERSIONS_FILE, commands

FILE = 'report.html'
_CLIPS = 8  # of the training, and of each kind of a test
_TOP_PAIRS = 10
_TRAINING = {
    'Loss': ('train/loss', 'evaluation/loss'),
    'Learning rate': ('train/learning_rate',),
    'Norm of the gradients': ('train/gradient_norm',),
    'Clips per second': ('train/clips_per_second',),
}


@dataclasses.dataclass(frozen=True)
class Test:
    """Files of the newest test of a run.

    Attributes:
        directory: of them.
        step: updates of the model that was tested.
        accuracy: by dataset.
    """

    __test__ = False  # not a test, whatever pytest thinks of its name

    directory: Path
    step: int
    accuracy: Mapping[str, DatasetResult]


def write(workdir: str | os.PathLike, output: str | os.PathLike | None = None) -> Path:
    """Writes the page.

    Args:
        workdir: of a run that has begun.
        output: the file; None: `WORKDIR/report.html`.

    Returns:
        The file.

    Raises:
        UserError: there is no run, or the page cannot be written.
    """
    place = Path(workdir).expanduser().resolve()
    output = place / FILE if output is None else Path(output).expanduser()
    content = make(place)
    try:
        with complete_or_absent(output) as temporary:
            temporary.write_text(content, encoding='utf-8')
    except OSError as error:
        raise UserError(f'--output={output}: cannot be written ({error.strerror})') from error
    return output


def make(workdir: Path) -> str:
    """The page of a run.

    Raises:
        UserError: there is no run.
    """
    config, trained = _config(workdir), _trained(workdir)
    if config is None and trained is not None:
        config = trained.config
    if config is None:  # also of an export, which is no run
        text = f'no run (neither {CONFIG_FILE} nor a checkpoint in it)'
        raise UserError(f'{workdir}: {text}{exports.models_below(workdir)}')
    if trained is None and config.probe is not None:
        from multitrain_jax.probing.run import RESULTS_FILE  # it brings what reads data

        text = f'a run of probes, which has no report; figures: {RESULTS_FILE}'
        raise UserError(f'{workdir}: {text}{exports.models_below(workdir)}')
    curves = read_curves(workdir)
    outcome, test = results.load(workdir), newest_test(workdir)
    specs = {} if trained is None else trained.info.datasets
    sections = [
        page.section('curves', 'Curves', _curves(curves, specs)),
        *(
            page.section(f'dataset-{n}', spec.name, *_dataset(config, spec, test))
            for n, spec in enumerate(specs.values())
        ),
        page.section('projections', 'Projections', *_projections(trained)),
        page.section('clips', 'Clips as they enter the step', *_training_clips(config, specs)),
        page.section('settings', 'Settings', *_settings(workdir, config)),
    ]
    done = max((step for points in curves.values() for step in points), default=0)
    if outcome is None:
        state = f'Not finished: {done} steps so far.'
    else:
        state = f'Finished after {outcome.steps} steps.'
    accuracy = test.accuracy if test is not None else outcome.accuracy if outcome else {}
    now = datetime.datetime.now().astimezone().isoformat(' ', 'minutes')
    links = [('curves', 'Curves'), *((f'dataset-{n}', name) for n, name in enumerate(specs))]
    links += [('projections', 'Projections'), ('clips', 'Clips'), ('settings', 'Settings')]
    present = [(name, title) for name, title in links if any(f'id="{name}"' in s for s in sections)]
    anchors = [f'<a href=#{name}>{page.text(title)}</a>' for name, title in present]
    body = [
        f'<h1>{page.text(workdir.name)}</h1>',
        page.paragraph(f'{state} Written {now}.', 'soft'),
        f'<nav>{"".join(anchors)}</nav>',
        _figures(accuracy, test),
        *sections,
    ]
    return page.document(f'{workdir.name}: report', '\n'.join(body))


def _config(workdir: Path) -> Config | None:
    try:
        return read_stored_config(json.loads((workdir / CONFIG_FILE).read_text(encoding='utf-8')))
    except OSError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f'{workdir / CONFIG_FILE}: not the config of a run ({error})') from error


def _trained(workdir: Path) -> TrainedModel | None:
    """The newest checkpoint; None before the first."""
    try:
        return open_trained(workdir)
    except UserError:
        return None


def newest_test(workdir: Path) -> Test | None:
    """The test of the latest step, by the run itself or by `evaluate`; None: there is none."""
    found = []
    for path in (workdir / 'evaluation').glob(f'*/{files.METRICS_FILE}'):
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
            fields = {field.name for field in dataclasses.fields(DatasetResult)}
            accuracy = {
                name: DatasetResult(**{key: x for key, x in own.items() if key in fields})
                for name, own in content['datasets'].items()
            }
            step = int(content['step'])
            found.append((step, path.stat().st_mtime, Test(path.parent, step, accuracy)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # another file, or one of a test that is being written
    return max(found, key=lambda entry: entry[:2])[2] if found else None


def _figures(accuracy: Mapping[str, DatasetResult], test: Test | None) -> str:
    shown = [
        figure
        for figure in FIGURES
        if any(getattr(result, figure) is not None for result in accuracy.values())
    ]
    if not accuracy:
        return page.paragraph('No evaluation yet.', 'soft')
    rows = [
        [
            name,
            result.videos,
            *(page.percent(getattr(result, figure)) for figure in shown),
            '' if result.loss is None else (f'{result.loss:.3f}', result.loss),
        ]
        for name, result in accuracy.items()
    ]
    header = ['dataset', 'videos', *(FIGURES[figure] for figure in shown), 'loss']
    said = '' if test is None else f'At step {test.step} (evaluation/{test.directory.name}).'
    return page.table(header, rows) + page.paragraph(said, 'soft')


def _curves(curves: Mapping[str, Mapping[int, float]], specs: Mapping[str, DatasetSpec]) -> str:
    def series(names: Mapping[str, str]) -> dict[str, list[tuple[int, float]]]:
        return {
            said: sorted(curves[name].items()) for said, name in names.items() if name in curves
        }

    pictures = {
        title: {name.partition('/')[0] if len(names) > 1 else '': name for name in names}
        for title, names in _TRAINING.items()
    }
    for name, spec in specs.items():
        figure = 'mean_average_precision' if spec.localisation or spec.multi_label else 'top1'
        pictures[f'{name}: {"mAP" if figure != "top1" else "top-1"}'] = {
            'training clips': f'train/top1/{name}',
            'evaluation': f'evaluation/{name}/{figure}',
        }
        pictures[f'{name}: loss'] = {
            'training clips': f'train/classification/{name}',
            'projected': f'train/projection/{name}',
            'boxes': f'train/localisation/{name}',
            'evaluation': f'evaluation/{name}/loss',
        }
    found = [page.curves(title, series(names)) for title, names in pictures.items()]
    return f'<div class="grid">{"".join(found)}</div>' if any(found) else ''


def _dataset(config: Config, spec: DatasetSpec, test: Test | None) -> Iterator[str]:
    """Classes, mistakes and test clips of one dataset."""
    if test is None or spec.name not in test.accuracy:
        yield page.paragraph('No figures of its classes: the run has not evaluated it yet.', 'soft')
        return
    yield from _classes(spec, test.directory / f'{spec.name}_classes.csv')
    if spec.localisation:
        yield from _test_boxes(config, spec, test.directory / f'{spec.name}_surest.csv')
        return
    try:
        kept = predictions.load(test.directory / f'{spec.name}_predictions.npz')
    except UserError:
        return
    if not spec.multi_label:
        yield from _confusion(kept.spec, kept.scores)
    yield from _test_clips(config, kept.spec, kept.scores)


def _read_csv(path: Path) -> list[dict[str, str]]:
    """Its lines; none of a file that is not there."""
    try:
        with open(path, newline='', encoding='utf-8') as file:
            return list(csv.DictReader(file))
    except OSError:
        return []


def _classes(spec: DatasetSpec, path: Path) -> Iterator[str]:
    rows = _read_csv(path)
    if not rows:
        return
    third: dict[str, str] = {}
    counts = dict(zip(spec.classes, spec.train_counts))
    if any(spec.train_counts):
        for name, which in zip(THIRDS, frequency_thirds(spec.train_counts)):
            third |= {spec.classes[number]: name for number in which}
    measure = 'average_precision' if 'average_precision' in rows[0] else 'top1'
    said = 'average precision' if measure != 'top1' else 'top-1'
    value = lambda row, field: float(row[field]) if row.get(field) else None  # noqa: E731
    many = 'boxes' if spec.localisation else 'videos'
    order = sorted(rows, key=lambda row: -counts.get(row['name'], 0))
    yield f'<h3>{said}, class by class</h3>'
    if third:
        means = []
        for number, name in enumerate(THIRDS):
            own = [value(row, measure) for row in rows if third.get(row['name']) == name]
            known = [x for x in own if x is not None]
            mean = f'{100 * np.mean(known):.1f} %' if known else 'not tested'
            means.append(
                f'<span class="key"><i style="background:var(--c{number})"></i>'
                f'{name} third in training: {mean}</span>'
            )
        yield f'<p>{"".join(means)}</p>'
    yield page.bars(
        (
            row['name'],
            x,
            THIRDS.index(third[row['name']]) if row['name'] in third else 0,
            f'{row["name"]}: {row[many]} {many} in the test, {counts.get(row["name"], "?")} in '
            'training',
        )
        for row in order
        if (x := value(row, measure)) is not None
    )
    extra = ['top5', 'taken_for'] if measure == 'top1' else []
    body = [
        [
            row['name'],
            int(row[many]),
            counts.get(row['name'], ''),
            third.get(row['name'], ''),
            page.percent(value(row, measure)),
            *(
                page.percent(value(row, 'top5')) if field == 'top5' else row[field]
                for field in extra
            ),
        ]
        for row in order
    ]
    header = ['class', many, 'in training', 'third', f'{said} %']
    header += ['top-5 %', 'most often taken for'] if extra else []
    yield '<details><summary>All classes as a table</summary><div class="tall">'
    yield page.table(header, body, words=(3, 6)) + '</div></details>'


def _confusion(spec: DatasetSpec, scores: Scores) -> Iterator[str]:
    matrix = confusion_matrix(scores, spec)
    shown, shares = most_mistaken(matrix, MOST_NAMES)
    title = 'Class (row) taken for (column)'
    if len(shown) < len(spec.classes):
        title += f', the {len(shown)} of {len(spec.classes)} classes with most mistakes'
    names = [spec.classes[number] for number in shown]
    yield f'<h3>{page.text(title)}</h3>'
    yield page.heat(shares, names, names, unit="of the class's videos")


def _test_clips(config: Config, spec: DatasetSpec, scores: Scores) -> Iterator[str]:
    """Some that the model is surest of, right and wrong."""
    best = scores.score.argmax(axis=1)
    if spec.multi_label:
        right = scores.label[np.arange(len(best)), best] > 0
    else:
        right = best == scores.label
    sure = np.argsort(-scores.score.max(axis=1), kind='stable')
    figures = []
    try:
        views = _views(config, spec.name)
        next(views)
        for wanted, kind in ((False, 'bad'), (True, 'good')):
            for row in [row for row in sure if right[row] == wanted][: _CLIPS // 2]:
                name, video = views.send(int(scores.record[row]))
                if name != scores.name[row]:
                    continue  # the data are others than those of the test
                label = scores.label[row]
                numbers = np.flatnonzero(label) if spec.multi_label else [int(label)]
                true = ', '.join(spec.classes[number] for number in numbers)
                told = f'{spec.classes[best[row]]} {scores.score[row, best[row]]:.0%}'
                said = told if wanted else f'{told}, is {true or "none of them"}'
                figures.append(page.clip(video, said, kind))
        views.close()
    except (ValueError, OSError) as error:
        yield page.paragraph(f'No test clips: {error}', 'soft')
    if figures:
        yield '<h3>Test clips that the model is surest of: wrong, then right</h3>'
        yield page.clips(figures)


def _test_boxes(config: Config, spec: DatasetSpec, path: Path) -> Iterator[str]:
    """Whole key-frame clips with the box that the model is surest of, and what is annotated."""
    from multitrain_jax.record_data import open_split

    figures = []
    try:
        _check_data(config)
        with open_split(config, spec.name, training=False) as dataset:
            for row in _read_csv(path):
                record, right = int(row['record']), row['right'] == '1'
                if not 0 <= record < dataset.num_records:
                    raise ValueError(f'{spec.name}: no record {record} in the data')
                video, clip = dataset.whole_clip(record, page.WIDTH)
                if row['name'] != (clip.name or dataset.where(record)):
                    continue  # the data are others than those of the test
                box = np.array([float(row[side]) for side in ('x1', 'y1', 'x2', 'y2')])
                told = f'{row["action"]} {float(row["score"]):.0%}'
                true = _draw_key_frame(video, spec, clip.key_frame_regions, box, row['action'])
                said = told if right else f'{told}, is {true}'
                figures.append(page.clip(video, said, 'good' if right else 'bad'))
    except (ValueError, OSError, KeyError) as error:
        yield page.paragraph(f'No test clips: {error}', 'soft')
    if figures:
        yield '<h3>Boxes that the model is surest of: wrong, then right</h3>'
        yield page.paragraph(
            'Orange: what the model says of a box; blue: annotated. Boxes are of the middle of the '
            'clip.',
            'soft',
        )
        yield page.clips(figures)


def _draw_key_frame(
    video: np.ndarray, spec: DatasetSpec, annotated: Any, told: np.ndarray, action: str
) -> str:
    """Draws what is annotated and what is told; returns what is annotated where that is told."""
    from data_pipelines.clip.boxes import iou
    from data_pipelines.inspection.drawing import COLOURS, draw_box, draw_tag

    orange, blue = COLOURS[:2]
    names = [', '.join(spec.classes[n] for n in np.flatnonzero(row)) for row in annotated.labels]
    overlap = [*iou(annotated.boxes, told)]
    for frame in video:
        for box, name in zip(annotated.boxes, names):
            x, y = draw_box(frame, box, blue)
            draw_tag(frame, name, x, round(box[3] * len(frame)), blue, 0.3)
        x, y = draw_box(frame, told, orange)
        draw_tag(frame, action, x, y - 14, orange, 0.3)  # above
    if max(overlap, default=0) < 0.5:
        return "nobody's box"
    return names[int(np.argmax(overlap))] or 'none of them'


def _views(config: Config, name: str) -> Generator[tuple[str, np.ndarray], int]:
    """Of a record whose number it is sent: (name of the video, its middle view u8[T, H, W, 3])."""
    from multitrain_jax.record_data import open_split

    _check_data(config)
    backbone = config.model.backbone
    with open_split(config, name, training=False) as dataset:
        clip = backbone.num_frames, backbone.image_size, backbone.image_size, 3
        out = np.zeros((dataset.views, *clip), np.uint8)
        record = yield '', out[0]
        while True:
            if not 0 <= record < dataset.num_records:
                raise ValueError(f'{name}: no record {record} in the data')
            found = dataset.write_views(record, list(out))
            record = yield found.name, out[dataset.views // 2]


def _check_data(config: Config) -> None:
    for name, entry in config.datasets.items():
        if runs_code(entry.path):
            raise UserError(f'the path of {name} names code, which a report does not run')


def _training_clips(config: Config, specs: Mapping[str, DatasetSpec]) -> Iterator[str]:
    from data_pipelines.inspection.drawing import COLOURS, draw_box

    if not specs:
        return
    try:
        found = training_samples(config)
    except (ValueError, OSError) as error:
        yield page.paragraph(f'Not shown: {error}', 'soft')
        return
    yield page.paragraph(
        'After augmentation, with all labels and their shares. Batches are smaller here than '
        'those of the run.',
        'soft',
    )
    figures = []
    for sample in found:
        video = sample.video.copy()
        for box, _ in sample.boxes:
            for frame in video:
                draw_box(frame, box, COLOURS[0], 1)
        figures.append(page.clip(video, preview.caption(sample)))
    yield page.clips(figures)


def training_samples(config: Config) -> list[preview.Sample]:
    """Clips of the first batches, until every dataset has been seen or some batches have passed.

    Raises:
        ValueError: the data are not here, or only code could read them.
    """
    from multitrain_jax.record_data import RecordData

    _check_data(config)
    unit = math.lcm(config.input.repeats, config.augment.mix_group)
    small = dataclasses.replace(
        config,
        batch_size=-(-_CLIPS // unit) * unit,
        datasets={
            name: dataclasses.replace(entry, batch_size=None)
            for name, entry in config.datasets.items()
        },
        input=dataclasses.replace(
            config.input, num_threads=2, num_processes=0, tf_data_service=None
        ),
        synthetic=None,
    )
    source = RecordData(small)
    run_key = jax.random.split(jax.random.key(config.seed))[1]  # as in the run
    found: list[preview.Sample] = []
    seen: set[str] = set()
    batches = source.train_batches(0, 4)
    try:
        for step, batch in enumerate(batches):
            found += preview.samples(
                batch, source.datasets, config.augment, run_key, step, most=_CLIPS
            )
            seen |= {source.datasets[number].name for number in batch['dataset']}
            if len(seen) == len(source.datasets):
                break
    finally:
        batches.close()
    return found


def _projections(trained: TrainedModel | None) -> Iterator[str]:
    if trained is None:
        return
    try:
        found = projections_of(trained)
    except UserError:
        return
    for one in found:
        rows, columns = shown_classes(one.weight)
        shown = one.weight[np.ix_(rows, columns)]
        yield f'<h3>{page.text(one.name)}</h3>'
        yield page.heat(
            shown,
            [one.source_classes[row] for row in rows],
            [one.target_classes[column] for column in columns],
            unit='weight',
            marks=enumerate(shown.argmax(axis=1)),
        )
        pairs = []
        for row, column in one.top(_TOP_PAIRS):
            weight = float(one.weight[row, column])
            names = one.source_classes[row], one.target_classes[column]
            pairs.append((*names, (f'{weight:.3f}', weight)))
        yield page.table([one.source, one.target, 'weight'], pairs, words=(1,))


def _settings(workdir: Path, config: Config) -> Iterator[str]:
    yield '<h3>What differs from the defaults</h3>'
    changed = [(f'config.{name}', value) for name, value in changed_settings(config).items()]
    yield page.table(['field', 'value'], changed, words=(1,))
    whole = json.dumps(config_reading.to_dict(config), indent=1, ensure_ascii=False)
    yield f'<details><summary>The whole config</summary><pre>{page.text(whole)}</pre></details>'
    yield '<h3>Commands</h3>'
    again = f'python run.py --config={workdir / CONFIG_FILE} --workdir=ANOTHER  # the same again'
    lines = [*commands(workdir), again]
    yield f'<pre>{page.text(chr(10).join(lines))}</pre>'
    try:
        found = json.loads((workdir / VERSIONS_FILE).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):  # of an earlier version of this code
        found = None
    if isinstance(found, dict):
        yield '<h3>Versions</h3>'
        yield page.paragraph(', '.join(f'{name} {version}' for name, version in found.items()))
