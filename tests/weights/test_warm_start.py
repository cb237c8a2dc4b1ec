"""Starting from another model: what is kept, interpolated, fresh, and what is refused."""

import dataclasses
import logging

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multitrain_jax import experiment, train
from multitrain_jax.batch import DatasetSpec
from multitrain_jax.checkpoints.trained_model import open_trained
from multitrain_jax.errors import UserError
from multitrain_jax.models.heads import Projections
from multitrain_jax.models.multitrain import MultiTrainModel
from multitrain_jax.models.variants import public_form
from multitrain_jax.parallel.drivers import Pmap
from multitrain_jax.parallel.mesh import data_mesh
from multitrain_jax.weights import warm_start
from multitrain_jax.weights.positions import is_positions, resize_positions
from tests.helpers import tiny
from tests.helpers.golden_models import flat
from tests.helpers.small_models import CLASSES, GREY, WHITE, architecture, backbone, make
from tests.helpers.small_models import trained as source
from tests.helpers.tiny import quick_compile  # noqa: F401


def params_of(trained):
    """By path."""
    return warm_start.flatten(trained.params)


def start(weights, classes=CLASSES, **changes):
    """(fresh parameters, parameters, report, rows by name)
    of a new model started from `weights`.
    """
    model = architecture(classes, **changes)
    new = make(model, seed=2)
    fresh = nnx.to_pure_dict(nnx.state(new))
    datasets = [DatasetSpec(name, names) for name, names in classes.items()]
    before = jax.tree.map(np.array, fresh)
    params, report = warm_start.fill(fresh, model, datasets, weights, mean=GREY, std=WHITE)
    jax.tree.map(np.testing.assert_array_equal, before, fresh)  # not written to
    assert jax.tree.structure(params) == jax.tree.structure(fresh)
    return flat(new), warm_start.flatten(params), report, {row.name: row for row in report.rows}


def test_the_same_model_gives_the_same_parameters():
    weights = source()
    _, params, report, rows = start(weights)
    assert params.keys() == params_of(weights).keys()
    for path, array in params.items():
        np.testing.assert_array_equal(array, params_of(weights)[path], err_msg=path)
    assert {row.outcome for row in report.rows} == {'used'} and not report.differences
    assert rows['heads/animals'].note == '3 of 3 classes'
    assert rows['projections/tools -> animals'].note == '2 x 3 classes'


@pytest.mark.parametrize('public', [False, True])
def test_larger_clips_get_interpolated_positions_and_the_same_output(public):
    form = public_form if public else lambda config: config
    weights = source(shape=form(backbone()))
    larger = form(backbone(num_frames=6, image_size=32))
    _, params, report, rows = start(weights, shape=larger)
    resized = 0
    for path, array in params.items():
        old = params_of(weights)[path]
        if array.shape == old.shape:
            np.testing.assert_array_equal(array, old, err_msg=path)
        else:
            assert is_positions(path) and rows[path].outcome == 'resized'
            np.testing.assert_array_equal(array, resize_positions(path, old, array.shape))
            resized += 1
    assert resized == (9 if public else 2)
    assert rows['heads/tools'].outcome == rows['expander'].outcome == 'used'

    # The old model interpolates when it is given larger clips: the new one must agree with it.
    video = jax.random.normal(jax.random.key(0), (2, 6, 32, 32, 3))

    def embed(config, params):
        model = nnx.eval_shape(lambda: MultiTrainModel(config, rngs=nnx.Rngs(0)))
        graph, state = nnx.split(model)
        leaves = [
            (path, leaf.replace(jnp.asarray(params['/'.join(map(str, path))])))
            for path, leaf in nnx.to_flat_state(state)
        ]
        return jax.jit(lambda m: m(video).embedding)(nnx.merge(graph, nnx.from_flat_state(leaves)))

    new = embed(architecture(shape=larger), params)
    np.testing.assert_allclose(new, embed(weights.info.model, params_of(weights)), atol=2e-5)


def test_classes_are_known_by_name():
    """Another order of datasets and classes, a class less,
    a class more, a dataset less, one more.
    """
    ours = {
        'tools': ('pen', 'saw', 'axe'),  # 'pen' is new, the others swapped
        'sports': ('golf', 'judo'),
        'animals': ('eel', 'cat'),
    }
    weights = source()
    fresh, params, report, rows = start(weights, ours)
    old = params_of(weights)
    for path in ('heads/hidden_kernel', 'heads/hidden_bias'):
        np.testing.assert_array_equal(params[path][0], old[path][1])
        np.testing.assert_array_equal(params[path][1], fresh[path][1])
        np.testing.assert_array_equal(params[path][2], old[path][0])
    for path in ('heads/kernel', 'heads/bias'):
        np.testing.assert_array_equal(params[path][0][..., 0], fresh[path][0][..., 0])
        np.testing.assert_array_equal(params[path][0][..., 1:3], old[path][1][..., [1, 0]])
        np.testing.assert_array_equal(params[path][1], fresh[path][1])
        np.testing.assert_array_equal(params[path][2][..., :2], old[path][0][..., [2, 0]])
    assert [rows[f'heads/{name}'].outcome for name in ours] == ['used', 'fresh', 'used']
    assert (
        rows['heads/tools'].note
        == "2 of 3 classes, the others fresh, such as 'pen'; in another order"
    )
    assert rows['heads/animals'].note == (
        '2 of 2 classes; 1 classes of the source ignored; in another order'
    )
    assert 'the source has animals, tools, fruit' in rows['heads/sports'].note
    assert rows['heads/fruit'].outcome == 'ignored'

    kernel = params['projections/kernel']
    animals_to_tools = Projections.sources(3, 0).index(2)
    theirs = old['projections/kernel'][1, Projections.sources(3, 1).index(0)]
    np.testing.assert_array_equal(
        kernel[0, animals_to_tools][np.ix_([0, 1], [1, 2])], theirs[np.ix_([2, 0], [1, 0])]
    )
    np.testing.assert_array_equal(
        kernel[0, animals_to_tools][:2, 0], fresh['projections/kernel'][0, animals_to_tools][:2, 0]
    )
    np.testing.assert_array_equal(kernel[1], fresh['projections/kernel'][1])
    assert rows['projections/animals -> tools'].outcome == 'used'
    assert rows['projections/sports -> tools'].outcome == 'fresh'


def test_projections_of_low_rank_follow_the_classes_too():
    ours = {'tools': ('saw', 'axe'), 'animals': ('dog', 'eel')}
    weights = source(projection_rank=2)
    _, params, _, rows = start(weights, ours, projection_rank=2)
    new = params['projections/left'] @ params['projections/right']  # [2, 1, C, C]
    old = weights.params['projections']['left'] @ weights.params['projections']['right']
    theirs = old[1, Projections.sources(3, 1).index(0)]  # animals -> tools
    np.testing.assert_allclose(new[0, 0], theirs[np.ix_([1, 2], [1, 0])], rtol=1e-5)
    _, params, _, rows = start(weights, ours, projection_rank=0)
    assert rows['projections/animals -> tools'].note == 'projection_rank 0 here, 2 there'


@pytest.mark.parametrize(
    ('of_source', 'of_target', 'name', 'note'),
    [
        (dict(head_hidden=0), {}, 'heads/animals', 'head_hidden 6 here, 0 there'),
        (dict(projections=False), {}, 'projections/tools -> fruit', 'has no projections'),
        (dict(expander=False), {}, 'expander', 'the source has none'),
        ({}, dict(expander_hidden=9), 'expander', r'[4, 9] here, [4, 7] there'),
    ],
)
def test_parts_of_another_form_are_fresh(of_source, of_target, name, note):
    shape = backbone(stage_blocks=(1,), query_strides=((1, 1, 1),))
    _, _, _, rows = start(source(shape=shape, **of_source), shape=shape, **of_target)
    assert rows[name].outcome == 'fresh' and note in rows[name].note


def test_parts_of_only_one_model_are_in_the_table():
    shape = backbone(stage_blocks=(1,), query_strides=((1, 1, 1),))
    _, _, _, rows = start(source(shape=shape), shape=shape, projections=False, expander=False)
    assert rows['projections'].outcome == rows['expander'].outcome == 'ignored'
    model = architecture(shape=shape)
    fresh = {**nnx.to_pure_dict(nnx.state(make(model, seed=2))), 'objective': {'w': np.ones(2)}}
    specs = [DatasetSpec(name, names) for name, names in CLASSES.items()]
    params, report = warm_start.fill(fresh, model, specs, source(shape=shape), mean=GREY, std=WHITE)
    assert warm_start.Row('objective/w', 'fresh', 'always starts anew') in report.rows
    np.testing.assert_array_equal(params['objective']['w'], 1)


def test_another_kind_of_positions_is_fresh_and_said_aloud():
    _, params, report, rows = start(source(shape=public_form(backbone())))
    assert rows['backbone/spatial_positions'].outcome == 'fresh'
    assert rows['backbone/class_token'].outcome == 'ignored'
    assert rows['backbone/stages/0/first/attention/relative_h'].outcome == 'ignored'
    assert any(
        "skip_input is 'raw' here and was 'normalised' there" in d for d in report.differences
    )
    assert str(report).count('note: ') == len(report.differences) - 1 == 4
    assert report.differences[-1].split(': ')[1] == ' '.join(
        f'--config.model.backbone.{field}'
        for field in (
            'positions=relative',
            'class_token=True',
            'skip_input=normalised',
            'pool_norm_epsilon=1e-06',
        )
    )
    assert 'backbone/norm/scale ' in str(report)


@pytest.mark.parametrize(
    'changes',
    [
        dict(width=8),
        dict(heads=2),
        dict(mlp_ratio=2.0),
        dict(stage_blocks=(1, 2)),
        dict(stage_blocks=(2, 3)),
        dict(stage_blocks=(1, 1)),
        dict(stage_blocks=(1,), query_strides=((1, 1, 1),)),
        dict(patch_kernel=(3, 5, 5)),
    ],
)
def test_another_backbone_is_refused(changes):
    for old, new in ((backbone(), backbone(**changes)), (backbone(**changes), backbone())):
        with pytest.raises(
            UserError, match='init_from=SOURCE: a backbone of another arch'
        ) as error:
            start(source(shape=old), shape=new)
        assert '\n' not in str(error.value) and ' there and ' in str(error.value)


def test_a_run_its_checkpoint_and_its_export(finished_run):
    config, data, workdir = finished_run
    newest = open_trained(workdir)
    assert {spec.name: spec.classes for spec in newest.datasets} == tiny.CLASSES
    assert newest.info.mean == config.augment.mean and 'projections' in newest.params
    earlier, exported = (
        open_trained(workdir / 'checkpoints' / '3'),
        open_trained(workdir / 'export'),
    )
    assert exported.datasets == newest.datasets and exported.info.std == newest.info.std
    for path, array in params_of(exported).items():
        np.testing.assert_array_equal(array, params_of(newest)[path], err_msg=path)
    assert any(np.any(a != params_of(newest)[path]) for path, a in params_of(earlier).items())


def first_state(config, source, workdir):
    driver = Pmap(data_mesh(jax.devices()[:1]))
    length = experiment.Length(2, per_epoch=2)
    return experiment.prepare(config, source.datasets, driver, length).first_state(workdir)


def test_a_run_starts_from_another_and_keeps_the_table(finished_run, tmp_path, caplog):
    _, source, workdir = finished_run
    config = tiny.config(
        init_from=str(workdir),
        model__backbone__image_size=24,
        input__short_side=(24, 24),
        evaluation__short_side=24,
    )
    with caplog.at_level(logging.INFO, 'multitrain_jax'):
        state = first_state(config, source, tmp_path)
    old = params_of(open_trained(workdir))
    new = warm_start.flatten(jax.device_get(state.params))
    for path, array in new.items():
        expected = old[path]
        if path == 'backbone/spatial_positions':
            assert array.shape == (6, 6, 8)
            expected = resize_positions(path, expected, array.shape)
        np.testing.assert_array_equal(array, expected, err_msg=path)
    table = (tmp_path / 'init_from.txt').read_text()
    assert 'backbone/spatial_positions  ' in table and '[4, 4, 8] -> [6, 6, 8]' in table
    (told,) = [m for m in caplog.messages if m.startswith('initialised from ')]
    used = sum('  used ' in line for line in table.splitlines())
    assert f'{used} used, 1 resized ({tmp_path}/init_from.txt lists them all)' in told and used > 20
    assert '\n  backbone/spatial_positions: resized, [4, 4, 8] -> [6, 6, 8]\n' in told
    assert '  heads/shades: used, 5 of 5 classes' in told
    assert 'attention/qkv' in table and 'attention/qkv' not in caplog.text


def test_resuming_does_not_ask_for_the_source_again(finished_run, tmp_path):
    _, _, workdir = finished_run
    config = tiny.config(init_from=str(workdir), epochs=1.0)
    data = tiny.ArraySource(config, steps_per_epoch=2)
    run = (
        lambda config: train.train_and_evaluate(  # noqa: E731
            config, tmp_path, source=data, devices=jax.devices()[:1]
        )
    )
    run(config)
    gone = dataclasses.replace(config, init_from=str(tmp_path / 'gone'), epochs=2.0)
    assert run(gone).steps == 4


@pytest.mark.parametrize(
    ('make_source', 'message'),
    [
        (lambda path: None, 'neither a run'),
        (lambda path: path.write_text('PK'), 'multitrain_jax.import_torch --checkpoint='),
        (
            lambda path: (path / 'checkpoints').mkdir(parents=True),
            'init_from=.*no checkpoint in it yet',
        ),
    ],
)
def test_no_source(tmp_path, make_source, message):
    make_source(tmp_path / 'source')
    with pytest.raises(UserError, match=message) as error:
        open_trained(tmp_path / 'source', argument='config.init_from')
    assert '\n' not in str(error.value)
