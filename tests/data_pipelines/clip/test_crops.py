import json

import numpy as np
import pytest

from data_pipelines.clip import crops
from tests.helpers.golden import reference_path


@pytest.fixture(scope='module')
def golden():
    return json.loads(reference_path('sampling.json').read_text())


def test_scaled_sizes_and_crops_equal_reference(golden):
    for case in golden['spatial']:
        size = crops.scaled_size(case['height'], case['width'], case['short_side'])
        assert size == (case['scaled_height'], case['scaled_width']), case
        expected = [(crop['y_offset'], crop['x_offset']) for crop in case['crops']]
        assert crops.crop_corners(*size, case['crop'], 3) == expected, case
        assert crops.crop_corners(*size, case['crop'], 1) == [expected[1]], case


@pytest.mark.parametrize('height, width', [(256, 340), (340, 256), (60, 60), (41, 397)])
def test_random_window_shows_the_asked_part_of_the_frame(height, width):
    rng = np.random.default_rng(0)
    windows = [crops.random_window(rng, height, width, (256, 320), 224) for _ in range(2000)]
    short = min(height, width)
    tops, lefts, heights, widths = np.array(windows).T
    assert tops.min() == 0 and lefts.min() == 0
    assert (tops + heights).max() == height and (lefts + widths).max() == width
    # Resizing the short side to s shows 224 / s of it; s is uniform over [256, 320].
    fractions = heights / short if height <= width else widths / short
    assert abs(fractions.min() - 224 / 320) < 1 / short
    assert abs(fractions.max() - 224 / 256) < 1 / short
    assert abs(np.mean(224 / fractions) - 288) < 2 + 288 / short
    # The crop is square, up to one stored pixel.
    assert np.abs(heights - widths).max() <= 1


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda rng: crops.random_window(rng, 90, 90, (60, 80), 64), 'short_side'),
        (lambda rng: crops.random_window(rng, 90, 90, (80, 70), 64), 'short_side'),
        (lambda rng: crops.crop_corners(224, 300, 256, 1), 'crop of 256'),
        (lambda rng: crops.crop_corners(224, 300, 224, 2), '1 .centre. or 3'),
    ],
)
def test_impossible_requests_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0))
