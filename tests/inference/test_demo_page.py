"""The page to drop videos on: what it answers, and itself in a browser."""

import os
import shutil
import sys

import numpy as np
import pytest

from data_pipelines.videos import video_file
from multitrain_jax.errors import UserError
from multitrain_jax.inference import demo_page
from multitrain_jax.inference.model import Model
from tests.helpers import small_models
from tests.helpers.tiny import quick_compile  # noqa: F401
from tests.helpers.video_writer import write_video

DRIVER = shutil.which('chromedriver')
CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')


@pytest.fixture(scope='module')
def model():
    return Model(small_models.trained(shape=small_models.plain_backbone()), batch_size=8)


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp('video') / 'v.mp4'
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 48, 3), dtype=np.uint8)
    write_video(path, images, rate=10)
    return str(path)


def test_answer(model, video, tmp_path):
    best, line, heat = demo_page.answer(model, video, str(tmp_path))
    assert [set(own) for own in best] == [set(names) for names in small_models.CLASSES.values()]
    assert all(sum(own.values()) == pytest.approx(1, abs=1e-5) for own in best)
    assert os.path.getsize(line) > 10_000
    assert video_file.read_frames(heat).frames.shape == (20, 300, 3 * 450, 3)
    (tmp_path / 'text.mp4').write_text('no video')
    with pytest.raises(ValueError, match='text.mp4: empty or unreadable'):
        demo_page.answer(model, str(tmp_path / 'text.mp4'), str(tmp_path))


def test_long_videos_are_refused_at_once(model, video, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_page, '_MOST_SECONDS', 1)
    with pytest.raises(ValueError, match=r'^v.mp4 lasts 0:02; this page takes up to 0:01: cut a'):
        demo_page.answer(model, video, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_without_gradio(model, monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(UserError, match=r"pip install 'multitrain_jax\[demo\]'"):
        demo_page.page(model, 'runs/x')


@pytest.fixture
def browser():
    webdriver = pytest.importorskip('selenium.webdriver')
    if DRIVER is None or CHROMIUM is None:
        pytest.skip('no chromium with chromedriver here')
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ('--headless=new', '--no-sandbox', '--disable-gpu', '--window-size=1200,1500'):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.mark.slow
def test_in_a_browser(model, video, browser, tmp_path):
    """A video is dropped; a bad one is told of; nothing is fetched from elsewhere."""
    pytest.importorskip('gradio')
    from selenium.webdriver.support.ui import WebDriverWait

    def found(selector):
        return browser.find_elements('css selector', selector)

    blocks = demo_page.page(model, 'runs/x')
    try:
        address = demo_page.launch(blocks, '127.0.0.1', None, block=False)
        assert address.startswith('http://127.0.0.1:')
        browser.get(address)
        wait = WebDriverWait(browser, 120)
        (field, *_) = wait.until(lambda _: found('#video input[type=file]'))
        field.send_keys(video)
        wait.until(lambda _: found('#timeline img') and found('#heat video'))
        for name, classes in small_models.CLASSES.items():
            wait.until(lambda _: all(part in found('body')[0].text for part in (name, *classes)))
        asked = browser.execute_script(
            "return performance.getEntriesByType('resource').map(entry => entry.name)"
        )
        assert asked and not [url for url in asked if url.startswith('http') and address not in url]
        (tmp_path / 'bad.mp4').write_text('no video')
        browser.refresh()
        (field, *_) = wait.until(lambda _: found('#video input[type=file]'))
        field.send_keys(str(tmp_path / 'bad.mp4'))
        wait.until(lambda _: 'bad.mp4: empty or unreadable' in found('body')[0].text)
    finally:
        blocks.close()
