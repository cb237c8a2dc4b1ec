"""Trains, evaluates and exports one experiment; continues where --workdir stopped.

    python run.py --config=configs/quickstart.py --workdir=runs/quickstart
    python run.py --config=configs/quickstart.py --workdir=runs/other --config.epochs=5 --config.seed=1
"""

import os
import sys

from absl import flags
from ml_collections import config_flags

from multitrain_jax.errors import UserError, run_command

FLAGS = flags.FLAGS
_CONFIG = config_flags.DEFINE_config_file('config', None, 'Experiment, a file of configs/.', lock_config=True)
flags.DEFINE_string('workdir', None, 'Gets checkpoints, metrics and the export; a run continues from it.')

flags.DEFINE_boolean('multi_host', False, 'Join the other hosts of the cluster (SLURM, TPU pod: found by itself).')


def _parse_flags() -> None:
    """Reads the command line; every mistake in it becomes one line."""
    if len(sys.argv) == 1 or any(argument in ('-h', '--help') for argument in sys.argv[1:]):
        print(__doc__)
        print('Any field: --config.GROUP.FIELD=VALUE; the fields are commented in the config file.')
        sys.exit(0 if len(sys.argv) > 1 else 2)
    try:
        rest = FLAGS(sys.argv)
        config = _CONFIG.value
        if config is not None:
            config.to_dict()  # a file that could not be loaded fails here, not before
    except (flags.Error, AttributeError, KeyError, ValueError, TypeError, OSError, SyntaxError) as error:
        raise UserError(_one_line(error)) from error
    if rest[1:]:
        raise UserError(f'unexpected argument {rest[1]!r}; flags begin with --')
    if config is None:
        raise UserError('--config is missing, for example --config=configs/quickstart.py')
    if not FLAGS.workdir:
        raise UserError('--workdir is missing, for example --workdir=runs/quickstart')


def _one_line(error: Exception) -> str:
    """The reason behind a flag error, with the override that caused it where that can be told."""
    text = ' '.join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    overrides = [argument.partition('=')[0] for argument in sys.argv[1:] if argument.startswith('--config.')]
    if isinstance(error, (AttributeError, KeyError)) and overrides:
        field = text.split('Did you mean')[0].replace('\\n', ' ').strip(' "\'\\')
        at_fault = [name for name in overrides if field and field in name.removeprefix('--config.').split('.')]
        hint = text.partition('Did you mean ')[2].partition(' ')[0].strip('"')
        mend = f'; did you mean {hint!r}?' if hint else '; the config file lists the fields'
        return f'{(at_fault or overrides)[0]}: unknown field{mend}'
    if isinstance(error, OSError):
        given = next((argument for argument in sys.argv[1:] if argument.startswith('--config=')), '--config')
        reason = text.rpartition('[Errno ')[2].partition('] ')[2] or text
        return f'{given}: cannot be loaded ({reason})'
    return text


def main() -> int:
    _parse_flags()

    import jax  # after the flags: mistakes in them are answered at once

    from multitrain_jax import parallel, progress, results
    from multitrain_jax.config import read_config

    config = read_config(_CONFIG.value)
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')  # TensorFlow, behind TensorBoard's writer, is talkative
    if config.cpu_devices:
        parallel.use_cpu_devices(config.cpu_devices)
    if FLAGS.multi_host:
        jax.distributed.initialize()
    from multitrain_jax.train import make_workdir, train_and_evaluate

    workdir = make_workdir(FLAGS.workdir)
    progress.set_up_logging(workdir)
    outcome = train_and_evaluate(config, workdir)
    if jax.process_index() == 0:
        print(results.table(outcome))
    return 0


if __name__ == '__main__':
    run_command(main)
