"""Plain video transformers of the library transformers, with random weights, and what they compute.

The default tests compare with arrays kept in tests/data/transformers, so that they need neither
transformers nor PyTorch. They were written by transformers 5.24.0 and PyTorch 2.13.0 (CPU):

    python -m tests.helpers.transformers_golden
"""

import dataclasses
import json
import pathlib
import tempfile
from typing import Any

import numpy as np

FOLDER = pathlib.Path(__file__).parent.parent / 'data' / 'transformers'
_SIZE = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, num_labels=5)
_PREDICTOR = dict(pred_hidden_size=12, pred_num_attention_heads=2, pred_num_hidden_layers=1)
_DECODER = dict(
    decoder_hidden_size=12,
    decoder_num_attention_heads=2,
    decoder_num_hidden_layers=1,
    decoder_intermediate_size=16,
)
# Name -> (class, settings, frames, height, width).
CASES: dict[str, tuple[str, dict[str, Any], int, int, int]] = {
    'videomae_mean': (
        'VideoMAEForVideoClassification',
        dict(image_size=[16, 24], patch_size=8, num_frames=4, intermediate_size=40),
        *(4, 16, 24),
    ),
    'videomae_first': (
        'VideoMAEForVideoClassification',
        dict(
            image_size=16,
            patch_size=8,
            num_frames=6,
            intermediate_size=40,
            use_mean_pooling=False,
            qv_bias=False,
        ),
        *(6, 16, 16),
    ),
    'videomae_pretraining': (
        'VideoMAEForPreTraining',
        dict(
            image_size=16,
            patch_size=8,
            num_frames=4,
            intermediate_size=40,
            use_mean_pooling=False,
            **_DECODER,
        ),
        *(4, 16, 16),
    ),
    'vivit': (
        'VivitForVideoClassification',
        dict(image_size=[24, 16], tubelet_size=[2, 8, 8], num_frames=4, intermediate_size=40),
        *(4, 24, 16),
    ),
    'vjepa2': (
        'VJEPA2ForVideoClassification',
        dict(
            crop_size=24,
            patch_size=8,
            frames_per_clip=4,
            mlp_ratio=2.0,
            num_pooler_layers=2,
            **_PREDICTOR,
        ),
        *(6, 24, 24),
    ),
    'vjepa2_encoder': (
        'VJEPA2Model',
        dict(crop_size=16, patch_size=8, frames_per_clip=4, mlp_ratio=3.0, **_PREDICTOR),
        *(4, 16, 16),
    ),
}


@dataclasses.dataclass(frozen=True)
class Golden:
    """One model and what it computes.

    Attributes:
        config: of config.json.
        weights: arrays as saved.
        video: f32[2, T, H, W, 3], normalised.
        hidden: tokens before the first block and after each, f32[2, S, D].
        output: logits f32[2, C], or the last tokens where there is no classifier.
        factors: of `output`, whose weighted sum is differentiated.
        gradients: of that sum, by the names of `weights`.
    """

    config: dict[str, Any]
    weights: dict[str, np.ndarray]
    video: np.ndarray
    hidden: list[np.ndarray]
    output: np.ndarray
    factors: np.ndarray
    gradients: dict[str, np.ndarray]


def build(case: str, seed: int = 0, **changes: Any):
    """transformers' model with random weights, and the shape of a clip (T, H, W)."""
    import torch
    import transformers

    name, settings, *clip = CASES[case]
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**{**_SIZE, **settings, **changes})).eval()
    generator = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = generator.normal(0, 0.2, parameter.shape).astype(np.float16)
            parameter.copy_(torch.tensor(drawn.astype(np.float32)))
    return model, tuple(clip)


def compute(model, clip: tuple[int, int, int], seed: int = 1) -> Golden:
    """Runs the model forward and backward."""
    import torch

    generator = np.random.default_rng(seed)
    video = generator.normal(0, 1, (2, *clip, 3)).astype(np.float32)
    pixels = torch.tensor(video.transpose(0, 1, 4, 2, 3))
    with tempfile.TemporaryDirectory() as directory:
        weights, config = saved(model, directory)
    backbone = getattr(model, 'videomae', model)
    if hasattr(model, 'classifier'):
        result = model(pixels, output_hidden_states=True)
        output = result.logits
    else:
        more = {} if backbone is not model else dict(skip_predictor=True)
        result = backbone(pixels, output_hidden_states=True, **more)
        output = result.last_hidden_state
    factors = generator.normal(0, 1, output.shape).astype(np.float32)
    model.zero_grad()
    (output * torch.tensor(factors)).sum().backward()
    # The gradients in the place of the parameters are saved under the names of the parameters.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros(()) if parameter.grad is None else parameter.grad)
    with tempfile.TemporaryDirectory() as directory:
        gradients, _ = saved(model, directory)
    return Golden(
        config=config,
        weights=weights,
        video=video,
        hidden=[tokens.detach().numpy() for tokens in result.hidden_states],
        output=output.detach().numpy(),
        factors=factors,
        gradients=gradients,
    )


def saved(model, directory) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, config) as transformers writes them."""
    import safetensors.numpy

    model.save_pretrained(directory)
    directory = pathlib.Path(directory)
    arrays = safetensors.numpy.load_file(directory / 'model.safetensors')
    return arrays, json.loads((directory / 'config.json').read_text())


def read(case: str) -> Golden:
    """A case out of tests/data."""
    with np.load(FOLDER / f'{case}.npz') as file:
        arrays = dict(file)

    def group(name: str) -> dict[str, np.ndarray]:
        return {
            key.removeprefix(f'{name}/'): array.astype(np.float32)
            for key, array in arrays.items()
            if key.startswith(f'{name}/')
        }

    return Golden(
        config=json.loads(str(arrays['config'])),
        weights=group('weights'),
        video=arrays['video'].astype(np.float32),
        hidden=list(group('hidden').values()),
        output=arrays['output'],
        factors=arrays['factors'],
        gradients=group('gradients'),
    )


def write(case: str) -> None:
    golden = compute(*build(case))
    unused = ('decoder', 'predictor', 'encoder_to_decoder', 'mask_token')
    np.savez_compressed(
        FOLDER / f'{case}.npz',
        config=json.dumps(golden.config),
        video=golden.video,
        output=golden.output,
        factors=golden.factors,
        **{f'weights/{name}': array.astype(np.float16) for name, array in golden.weights.items()},
        **{f'hidden/{i}': tokens for i, tokens in enumerate(golden.hidden)},
        **{
            f'gradients/{name}': array
            for name, array in golden.gradients.items()
            if not any(part in name for part in unused)
        },
    )


if __name__ == '__main__':
    for case in CASES:
        write(case)
