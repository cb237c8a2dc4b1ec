"""Where a model looked: the formula, the geometry, and whether it is where the shape is."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.videos import video_file
from data_pipelines.videos.windows import Length
from multitrain_jax.errors import UserError
from multitrain_jax.inference import explanation, predictions, stream
from multitrain_jax.inference.model import Model
from tests.helpers import small_models
from tests.helpers.tiny import quick_compile  # noqa: F401
from tests.helpers.video_writer import write_video

VIT = small_models.plain_backbone()
SHAPES = {
    'mvit, class token': small_models.backbone(init_std=0.3, class_token=True),
    'vit': VIT,
}


def _clips(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize('shape', SHAPES)
def test_heat_is_what_the_logit_gains_by_each_tokens_deviation(shape):
    """Against differences: one token after the other goes a little further from the mean token."""
    model = Model(small_models.trained(shape=SHAPES[shape]), batch_size=8)
    clips, dataset, label = _clips(2), 'animals', 'eel'
    heat = model.heat(clips, dataset, [label])
    blocks = SHAPES[shape].before_last_stage
    tokens = model.features(clips, layer=blocks)
    assert heat.shape == tokens.shape[:-1] and (heat > 0).any() and (heat >= 0).all()
    module = nnx.merge(model._graphdef, jax.device_get(model._params))
    video = ((clips / 255 - 0.45) / 0.225).astype(np.float32)
    x, thw = module.backbone.begin(jnp.asarray(video))
    x, thw = module.backbone.run(x, thw, slice(blocks))
    count = int(np.prod(thw))
    np.testing.assert_allclose(x[:, -count:].reshape(tokens.shape), tokens, atol=1e-5)
    deviation = x[:, -count:] - x[:, -count:].mean(1, keepdims=True)

    @jax.jit
    def logit(step, token):
        moved = x.at[:, x.shape[1] - count + token].add(step * deviation[:, token])
        features = module.backbone.pool(*module.backbone.run(moved, thw, slice(blocks, None)))
        return module.of_features(features).logits[0, :, 2]

    step = 0.004  # small: max-pooling has kinks
    gains = [(logit(step, n) - logit(-step, n)) / (2 * step) for n in range(count)]
    expected = np.maximum(np.stack(gains, 1), 0).reshape(heat.shape)
    np.testing.assert_allclose(heat, expected, atol=3e-3 * expected.max() + 1e-4)


def test_classes_are_the_best_ones_where_none_is_named():
    model = Model(small_models.trained(shape=VIT), batch_size=8)
    clips = _clips(3)
    best = [pairs['tools'][0][0] for pairs in model.predict(clips)]
    np.testing.assert_allclose(
        model.heat(clips, 'tools'), model.heat(clips, 'tools', best), atol=1e-6
    )
    with pytest.raises(UserError, match="'owl': dataset animals has no such class"):
        model.heat(clips, classes=['owl'])
    with pytest.raises(UserError, match='2 classes for 3 clips'):
        model.heat(clips, classes=['cat', 'dog'])
    with pytest.raises(UserError, match='layer=9: this model has 2 blocks'):
        model.heat(clips, layer=9)


def test_one_class_is_named_without_a_list():
    model = Model(small_models.trained(shape=VIT), batch_size=8)
    np.testing.assert_array_equal(
        model.heat(_clips(2), 'animals', 'eel'), model.heat(_clips(2), 'animals', ['eel'])
    )


@pytest.mark.parametrize('crops', [1, 3])
def test_heat_lies_in_the_frame_where_the_crop_was(crops):
    """A frame of 60 x 120, of which views show 30 x 30 of 40 x 80: one token of each is hot."""
    geometry = explanation.Geometry(40, 30, crops, 4)
    grid = np.zeros((crops, 2, 3, 3), np.float32)
    grid[:, 1, 0, 2] = 5.0  # at the end of the clip, in the upper right
    heat = stream.Heat(grid, np.tile([[1.0, 2.0]], (crops, 1)))
    for seconds, hottest in ((1.0, 0.0), (1.5, 0.5), (2.0, 1.0), (7.0, 1.0)):
        image = explanation.in_frame(heat, seconds, 60, 120, geometry)
        assert image.shape == (60, 120) and image.max() == pytest.approx(hottest, abs=0.02)
    lefts = [25] if crops == 1 else [0, 25, 50]
    for left in lefts:  # of 80; the hot token's middle is 25 pixels right and 5 below the corner
        assert image[round((5 + 5) * 1.5), round((left + 25) * 1.5)] > (0.9 if crops == 1 else 0.4)
    assert image[:4].max() == 0 and image[50:].max() == 0


def test_video_and_strip(tmp_path):
    """The two datasets' panels stand side by side; the strip has a row for each, and moments."""
    video, output = tmp_path / 'v.mp4', tmp_path / 'heat.mp4'
    write_video(video, [np.full((40, 64, 3), 9 * n, np.uint8) for n in range(20)], rate=10)
    model = Model(small_models.trained(shape=VIT), batch_size=8)
    seen = stream.see(model, [str(video)], window=Length(seconds=1.0), heat=True)
    writer = explanation.Explanation(model, str(output), 1)
    assert predictions.tell(model, [str(video)], seen, [writer]) == 0
    frames = video_file.read_frames(output).frames
    assert frames.shape == (20, 300, 3 * 480, 3)
    strip = video_file.read_frames(tmp_path / 'heat.png').frames[0]
    assert strip.shape == (3 * 160, 8 * 256, 3)
    assert np.abs(frames.astype(int)[:, 20:, :480] - frames[:, 20:, 480:960]).max() > 20
    with pytest.raises(UserError, match='cannot be written'):
        bad = explanation.Explanation(model, '/proc/none/heat.mp4', 1)
        seen = stream.see(model, [str(video)], window=Length(seconds=1.0), heat=True)
        predictions.tell(model, [str(video)], seen, [bad])
