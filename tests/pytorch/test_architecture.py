"""Architectures are recognised from names and shapes alone."""

import dataclasses
import json

import numpy as np
import pytest

from multitrain_jax.errors import UserError
from multitrain_jax.models.multitrain import MultiTrainConfig
from multitrain_jax.models.mvit import MViTConfig
from multitrain_jax.models.variants import (
    mvit_b_16x4,
    mvit_b_32x3,
    mvit_b_32x3_312,
    mvit_l_40x3,
    mvit_s_16x4,
    public_form,
)
from multitrain_jax.pytorch import naming
from multitrain_jax.pytorch.architecture import Hints, recognise
from tests.helpers.golden import reference_path
from tests.helpers.golden_models import flat, shapes_of


def one_head(backbone, classes=400) -> MultiTrainConfig:
    return MultiTrainConfig(backbone, (classes,), head_hidden=0, projections=False, expander=False)


def pyslowfast_form(backbone: MViTConfig) -> MViTConfig:
    """The public form with PySlowFast's rounding of distances."""
    return dataclasses.replace(public_form(backbone), distance_rounding='float32')


FORMS = {
    'multitrain': lambda backbone: backbone,
    'pyslowfast': pyslowfast_form,
    'torchvision': public_form,
}
MULTI = MultiTrainConfig(mvit_b_32x3(), (400, 305, 174), expander_hidden=4096)
DATASETS = ('kinetics', 'mit', 'ssv2')
LISTINGS = {
    'multitrain_MVITV2_FULL_B_16x4_k400': (one_head(mvit_s_16x4()), 'multitrain'),
    'multitrain_MVITV2_FULL_B_32x3_k400': (one_head(mvit_b_32x3()), 'multitrain'),
    'multitrain_MVITV2_FULL_B_32x3_k400_mit_ssv2': (MULTI, 'multitrain'),
    'pyslowfast_MVITv2_S_16x4': (one_head(pyslowfast_form(mvit_s_16x4())), 'pyslowfast'),
    'pyslowfast_MVITv2_B_32x3': (one_head(pyslowfast_form(mvit_b_32x3())), 'pyslowfast'),
    'pyslowfast_MVITv2_L_40x3_test': (one_head(pyslowfast_form(mvit_l_40x3())), 'pyslowfast'),
    'torchvision_mvit_v2_s': (one_head(public_form(mvit_s_16x4())), 'torchvision'),
}


def listing_of(config: MultiTrainConfig, style: str, datasets=()) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of our model under a reference's names; nothing is allocated."""
    shapes = flat(shapes_of(config))
    ours = {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in shapes.items()}
    theirs = naming.to_torch(ours, naming.entries_of(config, style, datasets))
    return {name: array.shape for name, array in theirs.items()}


@pytest.mark.parametrize('name', LISTINGS)
def test_published_models(name):
    config, style = LISTINGS[name]
    listing = json.loads(reference_path(f'state_dict_keys_{name}.json').read_text())['state_dict']
    found = recognise({key: tuple(shape) for key, (shape, _) in listing.items()}, Hints())
    assert (found.model, found.style) == (config, style)
    assert found.datasets == (DATASETS if config is MULTI else ())


@pytest.mark.parametrize('style', naming.STYLES)
@pytest.mark.parametrize(
    'backbone', [mvit_s_16x4, mvit_b_16x4, mvit_b_32x3, mvit_b_32x3_312, mvit_l_40x3]
)
def test_every_size_in_every_style(backbone, style):
    config = one_head(FORMS[style](backbone()))
    assert recognise(listing_of(config, style), Hints()).model == config


@pytest.mark.parametrize(
    'changes',
    [
        dict(class_token=False),
        dict(kv_stride=(1, 4, 4)),
        dict(query_strides=((1, 1, 1), (1, 2, 2), (1, 2, 2), (1, 1, 1))),
        dict(query_strides=((1, 1, 1), (2, 2, 2), (1, 2, 2), (1, 2, 2))),
        dict(num_frames=8, image_size=160),
        dict(width=48, heads=2, mlp_ratio=3.0, stage_blocks=(3, 1, 2, 2)),
    ],
)
def test_tables_of_relative_positions_tell_strides_and_sizes(changes):
    backbone = dataclasses.replace(pyslowfast_form(mvit_s_16x4()), **changes)
    found = recognise(listing_of(one_head(backbone), 'pyslowfast'), Hints())
    assert found.model.backbone == backbone
    assert any('agree with the position tables' in line for line in found.assumptions)


def test_what_weights_cannot_tell_is_assumed_aloud_or_hinted():
    listing = listing_of(one_head(mvit_s_16x4()), 'multitrain')
    assert [line.split()[0] for line in recognise(listing, Hints()).assumptions] == [
        'patch_stride',
        'query_strides',
        'kv_stride',
    ]
    hints = Hints(
        num_frames=17,
        image_size=226,
        patch_stride=(2, 4, 4),
        kv_stride=(1, 4, 4),
        block_query_strides={0: (1, 1, 1), 1: (1, 2, 2), 2: (1, 1, 1), 14: (1, 2, 2)},
    )
    found = recognise(listing, hints)
    assert not found.assumptions
    assert found.model.backbone == mvit_s_16x4(
        num_frames=17,
        image_size=226,
        kv_stride=(1, 4, 4),
        query_strides=((1, 1, 1), (1, 2, 2), (1, 1, 1), (1, 2, 2)),
    )
    # A size of another grid is no size of this model.
    assert (
        recognise(listing, dataclasses.replace(hints, image_size=312)).model.backbone.image_size
        == 224
    )


@pytest.mark.parametrize(
    ('change', 'hints', 'message'),
    [
        (lambda s: s.pop('blocks.3.attn.qkv.weight'), {}, 'blocks.3.attn.qkv.weight is missing'),
        (lambda s: s.pop('norm.bias'), {}, r'396 of 397 expected .* norm.bias is missing'),
        (lambda s: s.update({'pos_embed': (1, 9, 96)}), {}, 'pos_embed has no place'),
        (lambda s: s.update({'blocks.0.gamma_1': (96,)}), {}, 'blocks.0.gamma_1 has no place'),
        (
            lambda s: s.update({'blocks.5.attn.rel_pos_h': (30, 96)}),
            {},
            'none of the usual strides agree',
        ),
        (
            lambda s: None,
            dict(kv_stride=(1, 2, 2), query_strides=((1, 1, 1),) * 4),
            'the given strides do not',
        ),
        (
            lambda s: None,
            dict(block_query_strides={4: (1, 2, 2)}),
            'block 4 pools its queries inside a stage',
        ),
        (
            lambda s: s.update({'blocks.1.attn.qkv.weight': (3 * 96, 96)}),
            {},
            'double with every stage|heads',
        ),
        (lambda s: s.pop('head.projection.weight'), {}, 'no classifier'),
    ],
)
def test_other_architectures_are_refused(change, hints, message):
    listing = listing_of(one_head(pyslowfast_form(mvit_s_16x4())), 'pyslowfast')
    change(listing)
    with pytest.raises(UserError, match=message) as error:
        recognise(listing, Hints(**hints))
    assert '\n' not in str(error.value)


def test_heads_of_different_forms_are_refused():
    listing = listing_of(MULTI, 'multitrain', DATASETS)
    for layer in ('fc1', 'fc2'):
        del listing[f'head.heads.mit.{layer}.weight'], listing[f'head.heads.mit.{layer}.bias']
    listing |= {'head.heads.mit.weight': (305, 768), 'head.heads.mit.bias': (305,)}
    with pytest.raises(UserError, match='different hidden widths'):
        recognise(listing, Hints())


def test_projections_of_only_some_pairs_are_left_out():
    listing = listing_of(MULTI, 'multitrain', DATASETS)
    del listing['head.cross_dataset_heads.mit_ssv2.weight']
    found = recognise(listing, Hints())
    assert not found.model.projections and found.model.expander
    assert not any('cross_dataset' in entry.name for entry in found.entries)
