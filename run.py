"""The first command: `python run.py --config=configs/quickstart.py --workdir=runs/quickstart`."""

from multitrain_jax.errors import run_command
from multitrain_jax.run import main

if __name__ == '__main__':
    run_command(main)
