import pytest

from multitrain_jax.errors import UserError
from multitrain_jax.models.parameters import merge, partition

PARAMS = {
    'backbone': {
        'stages': {0: {'first': {'kernel': 1}}, 1: {'first': {'kernel': 2}, 'rest': {'kernel': 3}}},
        'norm': 4,
    },
    'heads': {'kernel': 5},
}


@pytest.mark.parametrize(
    ('frozen', 'stays'),
    [
        ((), set()),
        (('backbone',), {1, 2, 3, 4}),
        (('backbone/stages/*/first', 'heads'), {1, 2, 5}),
        (('backbone/stages/1',), {2, 3}),
        (('backbone/norm', 'backbone'), {1, 2, 3, 4}),
    ],
)
def test_patterns(frozen, stays):
    def leaves(tree):
        return set().union(*map(leaves, tree.values())) if isinstance(tree, dict) else {tree}

    trains, kept = partition(PARAMS, frozen)
    assert leaves(kept) == stays and leaves(trains) == {1, 2, 3, 4, 5} - stays
    assert merge(trains, kept) == merge(kept, trains) == PARAMS


def test_the_later_one_wins_where_both_have_a_leaf():
    assert merge({'a': {0: 1, 1: 2}}, {'a': {1: 3}}) == {'a': {0: 1, 1: 3}}
    assert merge(PARAMS, {}) == PARAMS


def test_mistakes_are_named():
    with pytest.raises(
        UserError, match="frozen: 'backbon' matches no parameter; names begin with backbone, heads"
    ):
        partition(PARAMS, ('heads', 'backbon'))
    with pytest.raises(UserError, match='leaves nothing to train'):
        partition(PARAMS, ('*',))
