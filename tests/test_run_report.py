"""The page about a run: what it shows, that it is harmless, and that a browser shows it."""

import base64
import dataclasses
import html.parser
import json
import re
import shutil
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest

from data_pipelines.datasets import dataset_info
from data_pipelines.inspection import drawing
from multitrain_jax import report, run_report, train
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.checkpoints.trained_model import open_trained
from multitrain_jax.errors import UserError
from multitrain_jax.evaluation import files, predictions
from multitrain_jax.evaluation.box_metrics import BoxScores, Rows
from multitrain_jax.evaluation.metrics import DatasetResult
from multitrain_jax.record_data import open_split
from multitrain_jax.reporting import page
from multitrain_jax.reporting.heat_map import heat_map
from multitrain_jax.training.board import EVALUATION
from tests.helpers import box_records, tiny
from tests.helpers.tiny import quick_compile  # noqa: F401

CHROMIUM = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None
)
RATIO = np.array(box_records.SIZE[::-1] * 2)
NASTY = (
    '<img src=x onerror="document.title=\'harmed\'">',
    '</title></script><script>document.title="harmed"</script>',
    '$\\frac{ & "quoted" \'too\' läuft',
)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """(config, workdir) of a finished run on records; class names hold markup."""
    root = tiny.write_datasets(tmp_path_factory.mktemp('data'))
    info = dataset_info.load_dataset_info(root / 'colours')
    splits = {
        name: dataclasses.replace(split, class_counts=(9, 7, 4) if name == 'train' else (3, 2, 2))
        for name, split in info.splits.items()
    }
    dataset_info.save_dataset_info(
        root / 'colours', dataclasses.replace(info, classes=NASTY, splits=splits)
    )
    workdir = tmp_path_factory.mktemp('run')
    config = tiny.config(
        data_root=str(root), epochs=2.0, evaluation__every_epochs=1.0, evaluation__spatial_views=1
    )
    train.train_and_evaluate(config, workdir, devices=jax.devices()[:1])
    return config, workdir


@pytest.fixture(scope='module')
def made(run):
    return run_report.write(run[1]).read_text('utf-8')


class Parts(html.parser.HTMLParser):
    """Elements with their attributes, texts, and the cells of tables."""

    def __init__(self, content: str):
        super().__init__()
        self.elements, self.texts, self.rows = [], [], []
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == 'tr':
            self.rows.append([])
        if tag in ('td', 'th'):
            self.rows[-1].append('')

    def handle_data(self, data):
        self.texts.append(data)
        if self.rows and self.rows[-1] and self.elements[-1][0] in ('td', 'th'):
            self.rows[-1][-1] += data.strip()

    def tags(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]


def test_it_shows_the_figures_of_the_run(run, made):
    _, workdir = run
    parts = Parts(made)
    accuracy = json.loads((workdir / 'results.json').read_text())['accuracy']
    for name, result in accuracy.items():
        row = [
            f'{100 * result["top1"]:.1f}',
            f'{100 * result["top5"]:.1f}',
            f'{result["loss"]:.3f}',
        ]
        assert [name, '7', *row] in parts.rows
    kept = predictions.load(workdir / EVALUATION / 'colours_predictions.npz')
    right = kept.scores.score.argmax(1) == kept.scores.label
    for number, (name, count, third) in enumerate(
        zip(NASTY, (9, 7, 4), ('frequent', 'middle', 'rare'))
    ):
        own = right[kept.scores.label == number]
        (row,) = [row for row in parts.rows if row[:1] == [name] and len(row) == 7]
        assert row[:5] == [name, str(len(own)), str(count), third, f'{100 * own.mean():.1f}']
    weights = open_trained(workdir).projections()['colours', 'shades']
    best = np.unravel_index(weights.argmax(), weights.shape)
    pair = [NASTY[best[0]], tiny.CLASSES['shades'][best[1]], f'{weights.max():.3f}']
    assert pair in parts.rows
    shown = ''.join(parts.texts)
    assert 'Finished after 5 steps.' in shown and 'config.batch_size' in shown
    assert f'jax {jax.__version__}' in shown and 'pytest' in shown  # version, command
    for title in ('Loss', 'Learning rate', 'colours: top-1', 'shades: loss'):
        assert title in parts.texts


def test_clips_are_animated_and_say_what_they_are(run, made):
    pictures = Parts(made).tags('img')
    assert all(picture['src'].startswith('data:image/webp;base64,') for picture in pictures)
    captions = [picture['alt'] for picture in pictures]
    mixed = [
        c for c in captions if re.fullmatch(r'(.|\n)+: (.|\n)+ \d+%; (.|\n)+: (.|\n)+ \d+%', c)
    ]
    assert len(mixed) >= 8  # both labels of a mixed clip
    kept = predictions.load(run[1] / EVALUATION / 'shades_predictions.npz')
    scores, label = kept.scores.score, kept.scores.label
    surest = scores.max(1).argmax()
    told = f'{kept.spec.classes[scores[surest].argmax()]} {scores[surest].max():.0%}'
    if scores[surest].argmax() != label[surest]:
        told += f', is {kept.spec.classes[label[surest]]}'
    assert told in captions


def test_a_clip_of_a_test_is_the_one_of_its_record(run):
    config, _ = run
    views = run_report._views(config, 'colours')
    next(views)
    for record in (5, 0):
        name, video = views.send(record)
        assert name == f'videos/{record:03d}.mp4'
        red, green, blue = video.reshape(-1, 3).mean(0)
        assert np.argmax([red, green, blue]) == record % 3
    with pytest.raises(ValueError, match='no record 99'):
        views.send(99)


def test_test_clips_of_boxes_have_both_boxes_on_them(tmp_path):
    """A red rectangle does action 0. One key frame is told right, on another its place is wrong."""
    root = box_records.write_scenes(tmp_path)
    scenes = dict(path='scenes', sampling='key_frame', stride=1, target_frame_rate=None)
    config = tiny.config(data_root=str(root), localisation={}, datasets__scenes=scenes)
    spec = DatasetSpec('scenes', ('red', 'green', '<b>'), localisation=True)
    truth = Rows(
        np.array([0, 1]), np.zeros(2, int), np.array([[10, 10, 60, 50], [20, 0, 60, 120]]) / RATIO
    )
    told = np.stack([truth.box[0], np.array([80, 60, 140, 118]) / RATIO])
    with open_split(config, 'scenes', training=False) as dataset:
        names = tuple(dataset.load(record).name for record in (3, 4))
    scores = BoxScores(
        names,
        np.arange(2),
        told.astype(np.float32),
        np.array([[0.8, 0.1, 0.2], [0.1, 0.2, 0.7]], np.float32),
        0,
        truth,
        np.array([3, 4]),
    )
    files.write(tmp_path, spec, scores)
    test = run_report.Test(tmp_path, 1, {'scenes': DatasetResult(videos=2)})
    parts = Parts(''.join(run_report._dataset(config, spec, test)))
    pictures = {picture['alt']: picture['src'] for picture in parts.tags('img')}
    assert list(pictures) == ["<b> 70%, is nobody's box", 'red 80%']
    orange, blue = drawing.COLOURS[:2]
    wrong, right = pictures.values()
    for source, box, colour in (
        (wrong, told[1], orange),
        (wrong, truth.box[1], blue),
        (right, told[0], orange),
    ):
        data = np.frombuffer(base64.b64decode(source.partition(',')[2]), np.uint8)
        frame = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(int)
        assert frame.shape == (120, 160, 3)  # all of it
        x, y = (box[2:] * [160, 120]).round().astype(int)
        edge = frame[y - 30 : y - 20, x - 1 : x + 2]  # a part of the right one, without tags
        assert np.abs(edge - colour).sum(-1).min(1).max() < 120


def test_it_needs_nothing_else_and_names_are_only_names(made):
    parts = Parts(made)
    addresses = [a[key] for _, a in parts.elements for key in ('src', 'href', 'action') if key in a]
    assert all(address.startswith(('data:image/', '#')) for address in addresses)
    assert len(parts.tags('script')) == 1 and 'harmed' not in str(parts.tags('script'))
    assert not [a for _, a in parts.elements for key in a if key.startswith('on')]
    assert NASTY[0] in parts.texts and 'url(' not in made and '@import' not in made


def test_while_the_run_goes_on(run, tmp_path):
    """Before the first checkpoint and evaluation, its newest record half-written."""
    _, workdir = run
    for path in [workdir / 'config.json', *workdir.glob('events.*')]:
        shutil.copy(path, tmp_path)
    (events,) = tmp_path.glob('events.*')
    events.write_bytes(events.read_bytes()[:-9])
    shown = ''.join(Parts(run_report.make(tmp_path)).texts)
    assert re.search(r'Not finished: [3-5] steps so far', shown) and 'No evaluation yet' in shown
    assert 'Learning rate' in shown
    before = sorted(tmp_path.iterdir())
    run_report.make(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_without_the_data_the_rest_is_shown(run, tmp_path):
    config, workdir = run
    shutil.copytree(workdir, tmp_path / 'run')
    path = tmp_path / 'run' / 'config.json'
    path.write_text(path.read_text().replace(config.data_root, '/nowhere'))
    parts = Parts(run_report.make(tmp_path / 'run'))
    assert not parts.tags('img') and 'config.batch_size' in ''.join(parts.texts)
    assert any(text.startswith('Not shown: dataset colours') for text in parts.texts)
    stored = json.loads(path.read_text())
    stored['datasets']['colours']['path'] = 'dmvr:os:getcwd'
    path.write_text(json.dumps(stored))
    shown = Parts(run_report.make(tmp_path / 'run')).texts
    assert 'Not shown: the path of colours names code, which a report does not run' in shown


def test_the_command(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax.config, 'update', lambda *_: None)
    output = tmp_path / 'page.html'
    monkeypatch.setattr(sys, 'argv', ['report', str(run[1]), f'--output={output}'])
    assert report.main() == 0
    assert capsys.readouterr().out == f'report: {output}\n' and output.stat().st_size > 10_000
    export = run[1] / 'export'
    for where, message in (
        (tmp_path, 'no run'),
        (export, 'no run'),
        (run[1], 'cannot be written'),
    ):
        arguments = ['report', str(where), f'--output={tmp_path / "none" / "x.html"}']
        monkeypatch.setattr(sys, 'argv', arguments)
        with pytest.raises(UserError, match=message) as error:
            report.main()
        assert '\n' not in str(error.value)


def test_curves_and_heat_maps_of_odd_numbers():
    assert page.curves('x', {'a': []}) == page.curves('x', {'a': [(1, float('nan'))]}) == ''
    one = page.curves('x', {'a': [(1, 0.0)], 'b': [(1, 0.0), (2, float('inf')), (3, 0.0)]})
    assert 'nan' not in one and 'inf' not in one and one.count('<polyline') == 1
    long = page.curves('x', {'a': [(n, n * n) for n in range(5000)]})
    assert len(re.findall(r'[\d.]+,[\d.]+', long)) <= 402
    assert 'nan' not in page.heat(np.zeros((2, 2)), 'ab', 'cd', unit='x')


def test_names_are_no_formulas_in_tensorboards_pictures(tmp_path):
    names = dict(title='$a$', row_title='$\\x$', column_title='b')
    heat_map(
        tmp_path / 'x.png',
        np.eye(3),
        rows=NASTY,
        columns=NASTY,
        value_title='share',
        signed=False,
        **names,
    )
    assert (tmp_path / 'x.png').stat().st_size > 1000


# Sorts the first table by its second column twice, and tells what the page is like.
PROBE = """
<script>addEventListener('load', () => {
  const images = [...document.images];
  const table = document.querySelector('table'), head = table.querySelectorAll('th')[2];
  const column = () => [...table.tBodies[0].rows].map(row => row.cells[2].textContent);
  head.click(); const falling = column(); head.click();
  document.body.setAttribute('data-found', JSON.stringify({
    title: document.title, images: images.length,
    broken: images.filter(i => !i.naturalWidth).length,
    falling, rising: column(), width: document.documentElement.scrollWidth, window: innerWidth,
    asked: performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length,
    paper: getComputedStyle(document.body).backgroundColor}));
});</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason='no chromium here')
@pytest.mark.parametrize('dark', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_in_a_browser_of_a_phones_width(run, made, dark, tmp_path):
    (tmp_path / 'page.html').write_text(made.replace('</body>', PROBE), encoding='utf-8')
    command = [
        CHROMIUM, '--headless=new', '--no-sandbox', '--disable-gpu', '--window-size=500,900',
        f'--user-data-dir={tmp_path / "profile"}', '--virtual-time-budget=5000', '--dump-dom',
        *['--blink-settings=preferredColorScheme=0'] * dark, f'file://{tmp_path / "page.html"}',
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (body,) = Parts(done.stdout).tags('body')
    found = json.loads(body['data-found'])
    assert found['title'] == f'{run[1].name}: report'  # not 'harmed'
    assert found['images'] >= 16 and not found['broken'] and not found['asked']
    assert found['width'] <= found['window']
    numbers = [float(text) for text in found['falling']]
    assert numbers == sorted(numbers, reverse=True) and len(numbers) == 2
    assert found['rising'] == found['falling'][::-1]
    light = sum(map(int, re.findall(r'\d+', found['paper']))) > 384
    assert light != dark
