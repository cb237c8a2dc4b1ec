"""What a run may go on from: what is free, what is told, what is refused."""

import contextlib
import copy
import json
import logging
import shutil

import jax
import numpy as np
import optax
import pytest

from multitrain_jax import experiment, train
from multitrain_jax.checkpoints import runs
from multitrain_jax.checkpoints.trained_model import open_trained
from multitrain_jax.errors import UserError
from multitrain_jax.parallel.drivers import Pmap
from multitrain_jax.parallel.mesh import data_mesh
from multitrain_jax.training.run_start import check_same_run, run_meta
from tests.helpers import tiny
from tests.helpers.tiny import quick_compile  # noqa: F401


def meta(**changes):
    config = tiny.config(**changes)
    return json.loads(json.dumps(run_meta(config, tiny.ArraySource(config))))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'model__head_hidden': 16}, r'model.head_hidden was 8, is 16 now; .* of that model'),
        ({'model__backbone__width': 16}, 'model.backbone.width was 8, is 16 now'),
        ({'model__backbone__kv_stride': (1, 1, 1)}, r'model.backbone.kv_stride\[1\] was 2, is 1'),
        ({'seed': 1}, 'data_order.seed was 0, is 1 now; .* a place in the data'),
        ({'batch_size': 32}, 'data_order.batch_size was 16, is 32 now'),
        ({'schedule': {'kind': 'alternating'}}, 'data_order.batch_sizes was None, is {'),
        ({'optimizer__ema_decay': 0.9}, 'state.ema was False, is True now; .* other arrays'),
        ({'optimizer__frozen': ('heads',)}, r"state.frozen was \[\], is \['heads'\] now"),
        ({'objective__learned_dataset_weights': True}, 'state.learned_dataset_weights was False'),
    ],
)
def test_what_cannot_be_carried_over_is_refused(changes, message):
    with pytest.raises(UserError, match=f'here holds a run with other settings: {message}'):
        check_same_run(meta(), meta(**changes), 'here')


def test_other_classes_are_refused():
    stored = meta()
    for change, message in (
        (
            lambda entry: entry.update(classes=['a', 'b', 'c']),
            r"classes\[0\] was 'a', is 'red' now",
        ),
        (lambda entry: entry.update(classes=['red']), r"classes was \['red'\], is \['red'.*\] now"),
        (lambda entry: entry.update(multi_label=True), 'multi_label was True, is False now'),
    ):
        other = copy.deepcopy(stored)
        change(other['datasets']['colours'])
        with pytest.raises(UserError, match=f'datasets.colours.{message}; .* for those classes'):
            check_same_run(other, stored, 'here')


def test_what_changes_only_speed_is_free():
    free = {
        'model__backbone__remat': True,
        'model__backbone__remat_attention': True,
        'model__backbone__attention': 'cudnn',
        'parallel__shard_optimizer': True,
        'cpu_devices': 4,
        'compilation_cache_dir': '/elsewhere',
        'input__num_threads': 3,
        'checkpoint__every_steps': 7,
        'checkpoint__keep_best': 'average',
        'log_every_steps': 5,
        'evaluation__batch_size': 24,
    }
    half = {'model__backbone__dtype': 'bfloat16'}
    assert check_same_run(meta(**half), meta(**half, **free), 'here') == []


def test_what_changes_the_experiment_is_told():
    told = {
        'epochs': (4.0, 6.0),
        'optimizer.peak_learning_rate': (0.01, 0.02),
        'optimizer.clip_norm': (1.0, 0.0),
        'optimizer.layer_decay': (1.0, 0.5),
        'optimizer.learning_rate_factors.heads': (1.0, 3.0),
        'objective.lambda_proj': (1.0, 0.5),
        'augment.color_jitter': (0.3, 0.1),
        'datasets.colours.stride': (2, 3),
        'datasets.colours.loss_weight': (1.0, 2.0),
        'model.backbone.stochastic_depth': (0.1, 0.2),
        'model.head_dropout': (0.5, 0.1),
        'accumulation_steps': (1, 2),
        'evaluation.temporal_views': (2, 3),
    }
    before = {name.replace('.', '__'): old for name, (old, _) in told.items()}
    after = {name.replace('.', '__'): new for name, (_, new) in told.items()}
    found = check_same_run(meta(**before), meta(**after), 'here')
    assert sorted(found) == sorted(
        f'config.{name} was {old!r}, is {new!r} now' for name, (old, new) in told.items()
    )


def test_a_checkpoint_of_an_earlier_version_has_the_defaults():
    """It says less of its config, and says some things in other places."""
    stored = meta()
    del stored['config']['model']['backbone']['remat_attention'], stored['config']['non_finite']
    stored['data_order'] |= {'seed': 0, 'batch_size': 16, 'repeats': 1, 'schedule': None}
    for entry in stored['datasets'].values():
        for field in ('train_counts', 'action_ids', 'sampling', 'stride', 'localisation'):
            del entry[field]
    assert check_same_run(stored, meta(), 'here') == []


@pytest.mark.parametrize(
    'changes',
    [
        pytest.param({'optimizer__clip_norm': 0.0}, marks=pytest.mark.slow),
        pytest.param({'optimizer__layer_decay': 0.5}, marks=pytest.mark.slow),
        {'optimizer__learning_rate_factors__heads': 2.0, 'optimizer__clip_norm': 0.0},
    ],
)
def test_another_optimizer_goes_on_with_the_same_moments(changes, tmp_path, caplog):
    """The checkpoint is not called damaged, and the new settings hold from its step on."""

    def run(**changes):
        config = tiny.config(epochs=2.0, checkpoint__every_steps=2, **changes)
        source = tiny.ArraySource(config, steps_per_epoch=2)
        source.batch = lambda step: batches[step]
        return train.train_and_evaluate(config, tmp_path, source=source, devices=jax.devices()[:1])

    plain = tiny.ArraySource(tiny.config(), steps_per_epoch=2)
    batches = {step: plain.batch(step) for step in range(4)}
    run()
    unchanged = open_trained(tmp_path, 4).params
    shutil.rmtree(tmp_path / 'checkpoints' / '4')
    (tmp_path / 'results.json').unlink()
    with caplog.at_level(logging.INFO, 'multitrain_jax'):
        assert run(**changes).steps == 4
    assert 'damaged' not in caplog.text and 'resuming at step 2 of 4' in caplog.text
    (line,) = [m for m in caplog.messages if m.startswith('the run goes on with other settings: ')]
    field, value = next(iter(changes.items()))
    assert f'config.{field.replace("__", ".")} was 1.0, is {value!r} now' in line
    changed = open_trained(tmp_path, 4).params
    assert np.abs(changed['heads']['kernel'] - unchanged['heads']['kernel']).max() > 1e-4
    # The optimizer has gone on counting: its moments are those of the checkpoint.
    config = tiny.config(**changes)
    driver, length = Pmap(data_mesh(jax.devices()[:1])), experiment.Length(4, per_epoch=2)
    prepared = experiment.prepare(config, plain.datasets, driver, length)
    with contextlib.closing(runs.RunCheckpoints(tmp_path, keep=None)) as saved:
        counts = optax.tree_utils.tree_get_all_with_path(
            saved.restore(4, prepared.shapes).opt_state, 'count'
        )
    assert counts and all(int(count) == 4 for _, count in counts)
