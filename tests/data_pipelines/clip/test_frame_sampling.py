import json

import numpy as np
import pytest

from data_pipelines.clip import frame_sampling
from tests.helpers.golden import reference_path


@pytest.fixture(scope='module')
def golden():
    return json.loads(reference_path('sampling.json').read_text())


def _span(case):
    return frame_sampling.clip_span(
        case['num_frames'], case['sampling_rate'], case['fps'], case['target_fps']
    )


def test_strided_views_equal_reference(golden):
    cases = [case for case in golden['temporal'] if case['use_offset']]
    assert len(cases) > 200
    for case in cases:
        views = frame_sampling.strided_views(
            case['num_video_frames'], case['num_frames'], _span(case), case['num_clips']
        )
        assert views.shape == (case['num_clips'], case['num_frames'])
        assert views[case['clip_idx']].tolist() == case['indices_decord'], case
        assert views[case['clip_idx']].tolist() == case['indices_full_decode'], case


def test_strided_frames_from_a_fractional_start_equal_reference(golden):
    for case in golden['temporal']:
        numbers = frame_sampling.strided_frames(
            case['start_idx'], _span(case), case['num_frames'], case['num_video_frames']
        )
        assert numbers.tolist() == case['indices_full_decode'], case


def test_uniform_frames_equal_reference(golden):
    for case in golden['ssv2']:
        numbers = frame_sampling.uniform_frames(case['num_video_frames'], case['num_frames'])
        assert numbers.tolist() == case['test_indices'], case


def test_random_uniform_frames_fill_the_reference_ranges(golden):
    rng = np.random.default_rng(0)
    for case in golden['ssv2']:
        low, high = np.array(case['train_low']), np.array(case['train_high_inclusive'])
        if high[0] - low[0] > 8:
            continue  # 300 draws must reach both ends.
        draws = np.stack(
            [
                frame_sampling.random_uniform_frames(
                    rng, case['num_video_frames'], case['num_frames']
                )
                for _ in range(300)
            ]
        )
        np.testing.assert_array_equal(draws.min(0), low)
        np.testing.assert_array_equal(draws.max(0), high)


def test_key_frame_clips_equal_reference(golden):
    for case in golden['ava_sequence']:
        span = frame_sampling.clip_span(case['num_frames'], case['sampling_rate'], None, None)
        numbers = frame_sampling.key_frame_clip(
            case['center_idx'], span, case['num_frames'], case['num_video_frames']
        )
        assert numbers.tolist() == case['indices'], case


def test_key_frame_clip_of_a_fractional_step_keeps_the_key_frame():
    """4 frames of 30 a second are 3.33 of 25 a second."""
    span = frame_sampling.clip_span(8, 4, 25.0, 30.0)
    numbers = frame_sampling.key_frame_clip(50, span, 8, 1000)
    assert numbers[4] == 50 and set(np.diff(numbers)) == {3, 4}
    assert frame_sampling.key_frame_clip(1, span, 8, 5).tolist() == [0, 0, 0, 0, 1, 4, 4, 4]


def test_random_strided_frames_reach_every_start_and_nothing_else():
    rng = np.random.default_rng(0)
    draws = [frame_sampling.random_strided_frames(rng, 20, 4, 16.0) for _ in range(200)]
    assert {int(numbers[0]) for numbers in draws} == {0, 1, 2, 3, 4}
    for numbers in draws:
        assert (numbers - numbers[0]).tolist() == [0, 5, 10, 15]


def test_short_video_repeats_its_last_frame():
    rng = np.random.default_rng(0)
    assert frame_sampling.random_strided_frames(rng, 3, 6, 12.0).tolist() == [0, 2, 2, 2, 2, 2]
    assert frame_sampling.strided_views(1, 4, 8.0, 3).tolist() == [[0] * 4] * 3


def test_span_counts_time_or_stored_frames():
    assert frame_sampling.clip_span(32, 3, 15.0, 30.0) == 48
    assert frame_sampling.clip_span(32, 3, None, None) == 96
    with pytest.raises(ValueError, match='target_frame_rate=30'):
        frame_sampling.clip_span(32, 3, None, 30.0)


@pytest.mark.parametrize(
    'stride, stored, target',
    [(1, 30000 / 1001, 30.0), (1, 24000 / 1001, 24.0), (1, 30.0, 30000 / 1001), (2, 29.97, 60.0)],
)
def test_frames_of_nearly_the_same_rate_follow_one_another(stride, stored, target):
    for num_frames in (2, 8, 16, 32, 250):
        span = frame_sampling.clip_span(num_frames, stride, stored, target)
        one_after_another = np.arange(num_frames)
        for numbers in (
            frame_sampling.strided_frames(7, span, num_frames, 1000) - 7,
            frame_sampling.key_frame_clip(500, span, num_frames, 1000) - 500 + num_frames // 2,
        ):
            np.testing.assert_array_equal(numbers, one_after_another)


def test_rates_that_differ_are_not_taken_as_equal():
    assert frame_sampling.clip_span(100, 1, 29.9, 30.0) == pytest.approx(100 * 29.9 / 30)
    # A larger step stays the reference's (its indices at 29.97 are in the golden file).
    assert frame_sampling.clip_span(32, 3, 29.97, 30.0) == pytest.approx(96 * 0.999)


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda rng: frame_sampling.strided_views(9, 4, 8.0, 0), 'views'),
        (lambda rng: frame_sampling.uniform_frames(0, 4), 'no frames'),
        (lambda rng: frame_sampling.strided_frames(0, 8.0, 0, 9), 'at least 1'),
    ],
)
def test_impossible_requests_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0))
