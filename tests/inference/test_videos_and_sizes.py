"""Models on videos, lists of them, and clips of other sizes than those of their training."""

from flax import nnx
import jax
import numpy as np
import pytest

import multitrain_jax as mt
from multitrain_jax.errors import UserError
from multitrain_jax.inference.model import Model
from tests.helpers import small_models
from tests.helpers.tiny import quick_compile  # noqa: F401
from tests.helpers.video_writer import number_image, write_video

SHAPES = {
    'mvit': small_models.backbone(init_std=0.3),
    'vit': small_models.plain_backbone(positions='learned'),
}


@pytest.fixture(scope='module', params=SHAPES)
def model(request):
    return Model(small_models.trained(shape=SHAPES[request.param]), batch_size=8)


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('videos')
    for number, count in enumerate((12, 9)):
        images = [number_image(17 * n % 256 + number) for n in range(count)]
        write_video(folder / f'{number}.mp4', images, rate=10)
    return [folder / '0.mp4', str(folder / '1.mp4')]


def _clips(*shape):
    return np.random.default_rng(len(shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_clips_of_other_sizes_are_what_the_module_makes_of_them(model):
    """Which interpolates its positions as the originals do; see tests/models."""
    clips = _clips(3, 6, 24, 20)
    module = nnx.merge(model._graphdef, jax.device_get(model._params))
    video = ((clips / 255 - 0.45) / 0.225).astype(np.float32)
    features = jax.jit(module.backbone)(video)
    np.testing.assert_allclose(model.embed(clips), features.embedding, atol=2e-5)
    grid = model.features(clips)
    assert grid.shape[1:4] == features.thw == (3, *grid.shape[2:4])
    tokens = features.grid_tokens
    np.testing.assert_allclose(grid.reshape(tokens.shape), tokens, atol=2e-5)
    expected = jax.jit(module.of_features)(features).logits
    logits = model.logits(clips)
    assert list(logits) == list(small_models.CLASSES)
    for n, (name, classes) in enumerate(small_models.CLASSES.items()):
        np.testing.assert_allclose(logits[name], expected[n, :, : len(classes)], atol=2e-5)


def test_more_clips_than_a_batch(model):
    """19 of batches of 8, each as if alone."""
    clips = _clips(19, 4, 16, 16)
    whole = model.embed(clips)
    assert whole.shape[0] == 19
    for row in (0, 7, 8, 18):
        np.testing.assert_allclose(whole[row], model.embed(clips[row : row + 1])[0], atol=1e-5)


def test_lists_of_videos(model, videos):
    each = [mt.read_clips(video, model) for video in videos]
    clips = mt.read_clips(videos, model=model)
    assert clips.dtype == np.uint8 and clips.shape == (2, 1, 4, 16, 16, 3)
    np.testing.assert_array_equal(clips, each)
    embedding = model.embed(videos)
    assert embedding.shape[0] == 2
    for row, own in enumerate(each):
        np.testing.assert_allclose(embedding[row], model.embed(own).mean(0), atol=1e-5)
    for name, logits in model.logits(videos).items():
        np.testing.assert_allclose(logits[0], model.logits(videos[0])[name], atol=1e-5)
    assert model.predict(videos, top=2) == [model.predict(video, top=2) for video in videos]
    assert model.predict(each[0], top=1)[0].keys() == small_models.CLASSES.keys()
    grid = model.features(videos)
    np.testing.assert_allclose(grid[1, 0], model.features(each[1])[0], atol=1e-5)


def test_layers(model):
    clips = _clips(2, 4, 16, 16)
    depth = model.info.model.backbone.depth
    assert model.features(clips, layer=0).shape[1:4] == (2, 4, 4)
    np.testing.assert_array_equal(
        model.features(clips, layer=-1), model.features(clips, layer=depth)
    )
    with pytest.raises(UserError, match=f'layer=7: this model has {depth} blocks'):
        model.features(clips, layer=7)


def test_mistakes(model, videos, tmp_path):
    (tmp_path / 'text.mp4').write_text('no video')
    for call in (model.embed, model.logits, model.predict, model.features):
        with pytest.raises(ValueError, match='text.mp4: empty or unreadable'):
            call([videos[0], tmp_path / 'text.mp4'])
        with pytest.raises(UserError, match='the list is empty'):
            call([])
        with pytest.raises(UserError, match=r'clips of shape \[\]: must be \[B, T, H, W, 3\]'):
            call(7)
    with pytest.raises(UserError, match='no head takes boxes'):
        model.localise(videos[0], [[0, 0, 1, 1]])
    with pytest.raises(UserError, match="dataset 'x': the model has only animals, tools, fruit"):
        mt.read_clips(videos[0], model, dataset='x')
