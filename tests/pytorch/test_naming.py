"""Names, shapes and layouts of the references' state dicts."""

import json

import numpy as np
import pytest

from multitrain_jax.models.multitrain import MultiTrainConfig
from multitrain_jax.models.variants import mvit_b_32x3, mvit_l_40x3, mvit_s_16x4, public_form
from multitrain_jax.pytorch import naming
from tests.helpers.golden import reference_path
from tests.helpers.golden_models import FORMS, flat, shapes_of


def _one_head(backbone) -> MultiTrainConfig:
    return MultiTrainConfig(backbone, (400,), head_hidden=0, expander=False)


@pytest.mark.parametrize(
    'name, config, datasets',
    [
        ('multitrain_MVITV2_FULL_B_16x4_k400', _one_head(mvit_s_16x4()), ()),
        ('multitrain_MVITV2_FULL_B_32x3_k400', _one_head(mvit_b_32x3()), ()),
        (
            'multitrain_MVITV2_FULL_B_32x3_k400_mit_ssv2',
            MultiTrainConfig(mvit_b_32x3(), (400, 305, 174), expander_hidden=4096),
            ('kinetics', 'mit', 'ssv2'),
        ),
        ('pyslowfast_MVITv2_S_16x4', _one_head(public_form(mvit_s_16x4())), ()),
        ('pyslowfast_MVITv2_B_32x3', _one_head(public_form(mvit_b_32x3())), ()),
        ('pyslowfast_MVITv2_L_40x3_test', _one_head(public_form(mvit_l_40x3())), ()),
        ('torchvision_mvit_v2_s', _one_head(public_form(mvit_s_16x4())), ()),
    ],
)
def test_every_published_array_has_exactly_one_place_of_its_shape(name, config, datasets):
    listing = json.loads(reference_path(f'state_dict_keys_{name}.json').read_text())['state_dict']
    entries = naming.entries_of(config, naming.style_of(listing), datasets)
    assert sorted(e.name for e in entries) == sorted(listing)
    # Arrays of the right shapes without their memory.
    filled = {}
    for path, shape in flat(shapes_of(config)).items():
        filled[path] = np.broadcast_to(np.float32(0), shape.shape)
    for entry in entries:
        assert entry.theirs(filled[entry.path]).shape == tuple(listing[entry.name][0]), entry.name
    assert {e.path for e in entries} == set(filled)


@pytest.mark.parametrize('name', FORMS)
def test_there_and_back(name):
    config, datasets = FORMS[name]
    state_dict = dict(np.load(reference_path(f'{name}_params.npz')))
    entries = naming.entries_of(config, naming.style_of(state_dict), datasets)
    empty = {k: np.full(v.shape, np.nan, v.dtype) for k, v in flat(shapes_of(config)).items()}
    ours, report = naming.from_torch(state_dict, entries, empty)
    assert set(report.used) == set(state_dict)
    filled = sum(np.count_nonzero(~np.isnan(a)) for a in ours.values())
    assert filled == sum(a.size for a in state_dict.values())  # nothing is written twice
    back = naming.to_torch(ours, entries)
    for key, array in state_dict.items():
        np.testing.assert_array_equal(back[key], array)


def test_missing_and_unknown_names_are_reported_and_parameters_not_written_to():
    config, datasets = FORMS['mvit_multitrain_k400head']
    state_dict = dict(np.load(reference_path('mvit_multitrain_k400head_params.npz')))
    entries = naming.entries_of(config, 'multitrain', datasets)
    del state_dict['norm.bias']
    state_dict['extra'] = np.zeros(3)
    before = {k: np.ones(v.shape, v.dtype) for k, v in flat(shapes_of(config)).items()}
    after, report = naming.from_torch(state_dict, entries, before)
    assert report.missing == ('norm.bias',) and report.ignored == ('extra',)
    np.testing.assert_array_equal(after['backbone/norm/bias'], 1)
    assert all(np.all(a == 1) for a in before.values())


def test_errors():
    config, datasets = FORMS['mvit_multitrain_k400head']
    entries = naming.entries_of(config, 'multitrain', datasets)
    zeros = {k: np.zeros(v.shape, v.dtype) for k, v in flat(shapes_of(config)).items()}
    with pytest.raises(ValueError, match='architectures differ'):
        naming.from_torch({'norm.weight': np.zeros(3)}, entries, zeros)
    with pytest.raises(ValueError, match='not a state dict'):
        naming.style_of(['conv1.weight'])
    with pytest.raises(ValueError, match='style'):
        naming.backbone_entries(config.backbone, 'keras')
    with pytest.raises(ValueError, match='2 dataset names for 1'):
        naming.entries_of(config, 'multitrain', ('a', 'b'))
    with pytest.raises(ValueError, match='one linear layer'):
        naming.entries_of(FORMS['mvit_multitrain_tiny'][0], 'multitrain')
