"""The files of configs/ and their variants."""

import pathlib

import ml_collections

from multitrain_jax import config_reading
from multitrain_jax.config import Config

DIRECTORY = pathlib.Path(__file__).parent.parent.parent / 'configs'
CONFIGS = (
    'quickstart.py', 'multitrain.py', 'multitrain.py:k700', 'multitrain.py:312p',
    'multitrain.py:16x4',
    'kinetics_pretrain.py', 'kinetics_pretrain.py:imagenet', 'kinetics_pretrain.py:k710',
    'kinetics_pretrain.py:k710_to_400', 'quickstart_cofinetune.py',
    'cofinetune_ava.py', 'cofinetune_ava.py:ava_kinetics,transfer', 'cofinetune_ava.py:vit_b',
    'multitrain.py:videomae_b', 'multitrain.py:vjepa2_l', 'finetune.py',
    'finetune.py:ssv2,vjepa2_l',
    'own_videos.py:mine,other=more/mine', 'own_boxes.py:scenes',
    'probe.py', 'probe.py:videomae_b', 'probe.py:quickstart',
)  # fmt: skip


def load(name: str, *overrides: str) -> ml_collections.ConfigDict:
    """As `--config=configs/NAME` does, with overrides as on a command line."""
    arguments = [f'--config={DIRECTORY / name}', *overrides]
    return config_reading.load_config_file(arguments, Config)
