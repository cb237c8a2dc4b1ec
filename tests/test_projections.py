"""The projections of a trained model as pairs of classes: which way round,
which match, what is known to be right.
"""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from multitrain_jax.checkpoints.trained_model import open_trained
from multitrain_jax.errors import UserError
from multitrain_jax.reporting import projections
from multitrain_jax.reporting.projections import (
    Agreement,
    Projection,
    agreement,
    projections_of,
    read_relations,
)
from tests.helpers import tiny
from tests.helpers.tiny import quick_compile  # noqa: F401

PETS = Projection(
    'pets',
    'sounds',
    ('cat', 'dog', 'fish'),
    ('bark', 'meow'),
    np.array([[0.1, 0.9], [0.8, 0.2], [-0.3, -0.4]], np.float32),
)
RELATIONS = {'pets': {'sounds': {'cat': ['meow'], 'dog': ['meow'], 'fish': []}}}


def test_weights_are_what_the_model_projects_with(finished_run):
    """Row s of A to B is what B is told when A's head says 1 for class s, and 0 for all others."""
    config, source, workdir = finished_run
    kernel = open_trained(workdir).params['projections']['kernel']
    model = tiny.model(config, source.datasets, 0)
    model.projections.kernel[...] = jax.numpy.asarray(kernel)
    found = {(one.source, one.target): one for one in projections_of(open_trained(workdir))}
    assert set(found) == {('shades', 'colours'), ('colours', 'shades')}
    for target, other in ((0, 'shades'), (1, 'colours')):
        name, logits = list(tiny.CLASSES)[target], np.zeros((2, 5, 5), np.float32)  # [N, B, C]
        logits[1 - target] = np.eye(5)
        told = np.asarray(model.projections(logits))[target, 0]  # [B, C]
        projection = found[other, name]
        assert (projection.source_classes, projection.target_classes) == (
            tiny.CLASSES[other],
            tiny.CLASSES[name],
        )
        rows, columns = projection.weight.shape
        np.testing.assert_allclose(projection.weight, told[:rows, :columns], rtol=1e-6)
        assert np.ptp(projection.weight) > 0.1


def test_top_pairs_and_matches():
    assert list(PETS.top(3)) == [(0, 1), (1, 0), (1, 1)]
    assert PETS.matches().tolist() == [1, 0, 0]


def test_agreement_counts_classes_that_have_related_ones():
    assert agreement(PETS, RELATIONS) == Agreement(right=1, classes=2, chance=1.0)
    assert agreement(PETS, {}) is None
    everything = {'pets': {'sounds': {'cat': ['meow', 'bark'], 'fish': ['bark']}}}
    assert agreement(PETS, everything) == Agreement(right=2, classes=2, chance=1.5)


def test_tables(tmp_path):
    assert projections.to_text(PETS, 2, RELATIONS) == (
        'pets to sounds\n'
        '    0.900  cat  meow  related\n'
        '    0.800  dog  bark  not related\n'
        '  best match related: 1 of 2 classes that have related ones (blindly: 1.0)\n'
    )
    content = projections.to_json(PETS, 1, RELATIONS)
    assert content['top'] == [
        {'class': 'cat', 'match': 'meow', 'weight': pytest.approx(0.9), 'related': True}
    ]
    assert [entry.get('related') for entry in content['best_match_of_every_class']] == [
        True,
        False,
        None,
    ]
    assert 'best_matches_related' not in projections.to_json(PETS, 1, {})


def test_large_heat_maps_show_the_largest_weights(tmp_path):
    weight = np.zeros((100, 70), np.float32)
    weight[90:, 60:] = np.eye(10)
    rows, columns = projections.shown_classes(weight)
    assert len(rows) == len(columns) == projections.MOST_NAMES
    assert set(range(90, 100)) <= set(rows) and set(range(60, 70)) <= set(columns)
    names = tuple(f'c{n}' for n in range(100))
    projections.draw(Projection('a', 'b', names, names[:70], weight), tmp_path / 'a.png', {})
    assert (tmp_path / 'a.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{', 'not JSON'),
        ('{"pets": {"sounds": {"cat": ["bark", "oink"]}}}', "sounds has no class 'oink'"),
        ('{"pets": {"sounds": {"cow": []}}}', "pets has no class 'cow'"),
        ('{"pets": {"sounds": ["cat"]}}', 'must be {dataset'),
        ('{"other": {}}', r'says nothing of the pairs of this model \(pets to sounds\)'),
    ],
)
def test_mistakes_in_relations(tmp_path, content, message):
    path = tmp_path / 'relations.json'
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_relations(path, [PETS])


def test_command(finished_run, tmp_path):
    workdir = finished_run[2]
    relations = tmp_path / 'relations.json'
    relations.write_text(
        '{"colours": {"shades": {"red": ["dark", "grey"], "green": []}}, "unknown": {}}'
    )
    command = [
        sys.executable,
        '-m',
        'multitrain_jax.projections',
        f'--checkpoint={workdir}',
        '--json',
    ]
    done = subprocess.run(
        [*command, '--step=6', f'--relations={relations}', f'--output={tmp_path / "out"}'],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content == json.loads((tmp_path / 'out' / 'projections.json').read_text())
    by_pair = {(pair['source'], pair['target']): pair for pair in content}
    assert by_pair['colours', 'shades']['best_matches_related']['classes'] == 1
    weight = projections_of(open_trained(workdir, 6))[0].weight  # shades to colours
    top = by_pair['shades', 'colours']['top']
    assert [pair['weight'] for pair in top] == sorted(weight.ravel().tolist(), reverse=True)[:5]
    assert sorted(path.name for path in (tmp_path / 'out').glob('*.png')) == [
        'colours_to_shades.png',
        'shades_to_colours.png',
    ]


def test_an_export_has_none(finished_run):
    with pytest.raises(
        UserError, match='an export, which has no projections .* give the workdir of the run'
    ):
        projections_of(open_trained(finished_run[2] / 'export'))
