"""Features on disk: computed once, gone on with, never stale, bounded."""

import numpy as np
import pytest

from multitrain_jax.errors import UserError
from multitrain_jax.probing import features

RECORDS, VIEWS, TOKENS, WIDTH, BATCH = 5, 2, 3, 4, 4


class Split:
    """Batches of numbered clips, whose tokens are their numbers; record 3 is damaged."""

    def __init__(self, stop_after: int | None = None):
        self.computed = []
        self.stop_after = stop_after

    def batches(self):
        rows = [(r, v) for r in range(RECORDS) if r != 3 for v in range(VIEWS)]
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            pad = BATCH - len(part)
            numbers = [r * VIEWS + v for r, v in part] + [99] * pad
            yield {
                'video': np.array(numbers, np.uint8),
                'record': np.array([r for r, _ in part] + [-1] * pad),
                'view': np.array([v for _, v in part] + [0] * pad),
                'label': np.array([10 * r for r, _ in part] + [77] * pad),
                'weight': np.array([1.0] * len(part) + [0.0] * pad, np.float32),
            }

    def compute(self, video):
        if self.stop_after is not None and len(self.computed) == self.stop_after:
            raise KeyboardInterrupt
        self.computed.append(video)
        return np.broadcast_to(video[:, None, None] + 0.5, (len(video), TOKENS, WIDTH))


def run(root, split, *, most_gib=1.0, **settings):
    return features.cached(
        root,
        'k400-train',
        {'weights': 'a', **settings},
        shape=(RECORDS, VIEWS, TOKENS, WIDTH),
        labels=((), 'int32'),
        batches=split.batches,
        compute=split.compute,
        most_gib=most_gib,
    )


def check(found):
    assert found.present.tolist() == [True, True, True, False, True]
    for record in (0, 1, 2, 4):
        assert found.labels[record] == 10 * record
        for view in range(VIEWS):
            row = record * VIEWS + view
            np.testing.assert_array_equal(found.tokens[row], np.full((TOKENS, WIDTH), row + 0.5))
    assert not found.tokens[3 * VIEWS : 4 * VIEWS].any()


def test_computed_once_and_found_again(tmp_path):
    first, second, other = Split(), Split(), Split()
    check(run(tmp_path, first))
    check(run(tmp_path, second))
    assert len(first.computed) == 2 and not second.computed
    check(run(tmp_path, other, weights='b'))  # other weights: computed anew, beside the old ones
    assert len(other.computed) == 2 and len(list(tmp_path.iterdir())) == 2


def test_an_interrupted_one_is_gone_on_with(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Split(stop_after=1))
    split = Split()
    check(run(tmp_path, split))
    assert len(split.computed) == 1


def test_no_more_than_the_bound(tmp_path):
    run(tmp_path, Split())
    needed = 2 * RECORDS * VIEWS * TOKENS * WIDTH / 2**30
    with pytest.raises(
        UserError, match='cache_gib=.*remove what is not needed, such as k400-train'
    ):
        run(tmp_path, Split(), weights='b', most_gib=1.5 * needed)
    check(run(tmp_path, Split(), most_gib=1.5 * needed))  # it is there already


def test_damaged_files_and_numbers_are_refused(tmp_path):
    split = Split()
    split.compute = lambda video: np.full((len(video), TOKENS, WIDTH), np.nan)
    with pytest.raises(UserError, match='not finite'):
        run(tmp_path, split)
    (folder,) = tmp_path.iterdir()
    np.save(folder / 'labels.npy', np.zeros(3))
    with pytest.raises(UserError, match='labels.npy: damaged'):
        run(tmp_path, Split())


def test_files_of_a_dataset_change_the_digest(tmp_path):
    (tmp_path / 'a').write_text('x')
    before = features.digest({'files': features.files_of(tmp_path)})
    assert before == features.digest({'files': features.files_of(tmp_path)})
    (tmp_path / 'a').write_text('xy')
    assert before != features.digest({'files': features.files_of(tmp_path)})
    assert features.files_of(tmp_path / 'missing') == []
