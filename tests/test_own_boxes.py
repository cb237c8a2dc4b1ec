"""One's own boxes: the README's three commands,
from a folder of videos and csv files to a head that knows the actions.
"""

import json
import pathlib
import re
import shlex

import jax
import numpy as np

from data_pipelines.videos import video_file
from tests.helpers.calling import ROOT, call_line
from tests.helpers.tiny import quick_compile  # noqa: F401
from tests.helpers.video_writer import write_video

ACTIONS = 'label { name: "be red" label_id: 1 }\nlabel { name: "be blue" label_id: 3 }\n'
COLOURS = {1: (230, 30, 30), 3: (30, 30, 230)}
HEIGHT, WIDTH, RATE, SECONDS = 48, 64, 10, (1, 2, 3)
# A model that a CPU trains in seconds; everything else is the config's.
SMALL = """
--config.model.backbone.num_frames=4 --config.model.backbone.image_size=32
--config.model.backbone.width=8
--config.model.backbone.stage_blocks=(1,) --config.model.backbone.query_strides=((1,1,1),)
--config.model.backbone.kv_stride=(1,2,2) --config.model.backbone.init_std=0.3
--config.model.backbone.dtype=float32
--config.input.short_side=(32,36) --config.evaluation.short_side=32
--config.evaluation.batch_size=16
--config.optimizer.peak_learning_rate=0.02 --config.evaluation.every_epochs=0
--config.log_every_steps=5
""".split()


def write_dataset(root: pathlib.Path) -> None:
    """Videos in which grey is all but one or two rectangles, and their colour is what they do."""
    rng = np.random.default_rng(0)
    (root / 'VIDEOS').mkdir()
    (root / 'actions.pbtxt').write_text(ACTIONS)
    for split, count in (('train', 8), ('val', 4)):
        lines = []
        for number in range(count):
            images = np.full((RATE * 4, HEIGHT, WIDTH, 3), 110, np.uint8)
            for person, left in enumerate((0, WIDTH // 2)[: 1 + number % 2]):
                action = (1, 3)[rng.integers(2)]
                x, y, w, h = (
                    left + rng.integers(2, 8),
                    rng.integers(2, 16),
                    rng.integers(14, 22),
                    rng.integers(16, 28),
                )
                images[:, y : y + h, x : x + w] = COLOURS[action]
                box = ','.join(
                    f'{side:.3f}'
                    for side in (x / WIDTH, y / HEIGHT, (x + w) / WIDTH, (y + h) / HEIGHT)
                )
                lines += [
                    f'{split}_{number},{second},{box},{action},{person}\n' for second in SECONDS
                ]
            write_video(root / 'VIDEOS' / f'{split}_{number}.mp4', images, rate=RATE)
        (root / f'{split}.csv').write_text(''.join(lines))


def readme_commands() -> list[list[str]]:
    """The three commands, split as a shell does."""
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    block = re.search(r'Your own boxes.*?```bash\n(.*?)```', text, re.DOTALL)[1]
    return [shlex.split(line) for line in block.replace('\\\n', ' ').splitlines()]


def test_the_readme_commands_on_own_boxes(tmp_path, monkeypatch):
    convert, train, predict = readme_commands()
    write_dataset(tmp_path)
    monkeypatch.chdir(tmp_path)

    code, _, err = call_line(*convert)
    assert code == 0, err
    info = json.loads((tmp_path / 'data' / 'mine' / 'dataset.json').read_text())
    assert info['classes'] == ['be red', 'be blue'] and info['splits']['train'][
        'records'
    ] == 8 * len(SECONDS)

    cache = f'--config.compilation_cache_dir={jax.config.jax_compilation_cache_dir}'
    code, _, log = call_line(*train, *SMALL, cache)
    assert code == 0, log
    losses = [float(loss) for loss in re.findall(r' loss ([\d.]+)', log)]
    assert losses[-1] < losses[0] / 3
    found = json.loads((tmp_path / 'runs' / 'mine' / 'results.json').read_text())['accuracy'][
        'mine'
    ]
    assert found['videos'] == 4 * len(SECONDS) and found['mean_average_precision'] > 0.95

    predict = [word.replace('some', 'val_1') for word in predict]
    code, out, err = call_line(*predict)
    assert code == 0, err
    assert 'VIDEOS/val_1.mp4' in out and 'be red' in out and 'be blue' in out
    drawn = video_file.read_frames(tmp_path / 'out.mp4').frames
    assert drawn.shape == (RATE * 4, HEIGHT, WIDTH, 3)
