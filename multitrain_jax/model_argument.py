"""The trained model that a command works on, named in the same way by all of them."""

import argparse
from collections.abc import Sequence
import dataclasses
from pathlib import Path
import typing

from multitrain_jax.errors import UserError

if typing.TYPE_CHECKING:  # commands answer mistakes and --help before they import JAX
    from multitrain_jax.checkpoints.trained_model import TrainedModel

_BEST = 'best'
_FLAGS = ('checkpoint', 'workdir')


@dataclasses.dataclass(frozen=True)
class ModelArgument:
    """A trained model on a command line.

    Attributes:
        path: an export, an import, a run or one of its checkpoints.
        step: which checkpoint of a run; None: the newest.
        argument: what error messages call `path`.
    """

    path: str
    step: int | None
    argument: str

    def open(self) -> 'TrainedModel':
        """Reads it.

        Raises:
            UserError: there is no such model, or a damaged one.
        """
        from multitrain_jax.checkpoints.trained_model import open_trained

        return open_trained(self.path, self.step, argument=self.argument)


def add_model_argument(parser: argparse.ArgumentParser, others: str = '') -> None:
    """Adds `MODEL`, and `--checkpoint` and `--workdir`, which mean the same.

    Args:
        parser: of the command.
        others: what the command's further arguments are; '': there is none.
    """
    add = parser.add_argument
    add(
        'model',
        nargs='*',
        metavar=f'MODEL {others}'.strip(),
        help='an export, an import, a run (its workdir) or WORKDIR/checkpoints/STEP',
    )
    for flag in _FLAGS:
        add(f'--{flag}', metavar='MODEL', help='MODEL, said in another way')
    add('--step', type=int, help='which checkpoint of a run (default: the newest)')
    add(
        '--best',
        action='store_true',
        help='the best checkpoint, of a run with checkpoint.keep_best',
    )


def model_argument(parser: argparse.ArgumentParser, args: argparse.Namespace) -> ModelArgument:
    """The model that the arguments name, of a command that takes nothing besides.

    Raises:
        UserError: there is no best checkpoint.
    """
    model, others = model_and_others(parser, args)
    if others:
        parser.error(f'unexpected argument {others[0]!r}')
    return model


def model_and_others(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> tuple[ModelArgument, Sequence[str]]:
    """The model that the arguments name, and what was given besides.

    Raises:
        UserError: there is no best checkpoint.
    """
    named = [(f'--{flag}', path) for flag in _FLAGS if (path := getattr(args, flag)) is not None]
    others = args.model
    if not named and others:
        named, others = [('MODEL', others[0])], others[1:]
    if not named:
        parser.error('MODEL is missing: an export, an import, a run or one of its checkpoints')
    if len(named) > 1:
        parser.error(f'{" and ".join(flag for flag, _ in named)} are both given; each is MODEL')
    ((argument, path),) = named
    if not args.best:
        return ModelArgument(path, args.step, argument), others
    if args.step is not None:
        parser.error(f'--best and --step={args.step} are both given')
    if not (Path(path).expanduser() / _BEST).is_dir():
        raise UserError(
            f'{argument}={path} --best: no best checkpoint in it; '
            'config.checkpoint.keep_best keeps one while the run trains'
        )
    return ModelArgument(str(Path(path) / _BEST), None, argument), others
