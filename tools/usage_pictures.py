"""The pictures of docs/predict.md and docs/features.md: a day of synthetic videos, seen by a model.

    python -m tools.usage_pictures --model=runs/quickstart/export --output=docs

Videos that the model has not seen are joined to one, in which classes follow each other.
"""

import argparse
from pathlib import Path
import tempfile

import cv2
import numpy as np

from data_pipelines.synthetic import classification, layers
from data_pipelines.videos import mp4
from data_pipelines.videos.windows import Length
from multitrain_jax.errors import run_command
from multitrain_jax.inference import explanation, predictions, stream, timeline
from multitrain_jax.inference.model import load

_FRAME_RATE, _SECONDS, _SIDE = 15, 3, 96  # of each video that is joined
_CLASSES = (0, 5, 7, 2, 0, 8, 5)  # of the dataset "motions", one after the other


def main() -> int:
    parser = argparse.ArgumentParser(
        prog='python -m tools.usage_pictures',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--model', required=True, help='an export of configs/quickstart.py')
    parser.add_argument('--output', required=True, type=Path, help='directory of the pictures')
    args = parser.parse_args()
    model = load(args.model)
    with tempfile.TemporaryDirectory() as folder:
        video = str(Path(folder) / 'joined.mp4')
        mp4.write_video(video, _joined(), _FRAME_RATE)
        window, stride = Length(seconds=1.0), Length(seconds=0.25)
        heat = str(Path(folder) / 'heat.mp4')
        outputs = [
            timeline.Timeline(model, str(args.output / 'timeline.png')),
            explanation.Explanation(model, heat, 1),
        ]
        seen = list(stream.see(model, [video], window=window, stride=stride, heat=True))
        predictions.tell(model, [video], seen, outputs)
        Path(explanation.strip_path(heat)).replace(args.output / 'heat.png')
    embeddings = np.concatenate([event.embedding for event in seen[:-1]])
    _draw_similarity(args.output / 'similarity.png', embeddings)
    return 0


def _joined():
    for place, label in enumerate(_CLASSES):
        scene = classification.Video('motions', 'validation', label + 10 * place, seed=11).scene()
        frames = layers.render(scene)
        numbers = np.arange(_SECONDS * _FRAME_RATE) * len(frames) // (_SECONDS * _FRAME_RATE)
        short = min(frames.shape[1:3])
        top, left = (frames.shape[1] - short) // 2, (frames.shape[2] - short) // 2
        for number in numbers:
            square = frames[number, top : top + short, left : left + short]
            yield cv2.resize(square, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)


def _draw_similarity(path: Path, embeddings: np.ndarray) -> None:
    """Cosines between all windows."""
    from matplotlib.figure import Figure

    own = embeddings - embeddings.mean(0)
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    end = _SECONDS * len(_CLASSES)
    figure = Figure(figsize=(5, 4.2), layout='constrained')
    panel = figure.subplots()
    drawn = panel.imshow(own @ own.T, cmap='RdBu_r', vmin=-1, vmax=1, extent=(0, end, end, 0))
    panel.set_xlabel('seconds')
    panel.set_ylabel('seconds')
    figure.colorbar(drawn, label='cosine of embeddings')
    figure.savefig(path, dpi=100)


if __name__ == '__main__':
    run_command(main)
