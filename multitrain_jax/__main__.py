"""One video transformer, many action datasets: MultiTrain and co-finetuning in JAX."""

import ast
import difflib
import importlib.util
import runpy
import sys

from multitrain_jax import config_reading
from multitrain_jax.errors import EXIT_USER_ERROR

COMMANDS = {
    'convert': 'data_pipelines.convert',
    'inspect': 'data_pipelines.inspect',
    'index': 'data_pipelines.index',
    'service': 'data_pipelines.service',
    'synthetic': 'data_pipelines.synthetic',
    'train': 'multitrain_jax.run',
    'evaluate': 'multitrain_jax.evaluate',
    'predict': 'multitrain_jax.predict',
    'features': 'multitrain_jax.features',
    'demo': 'multitrain_jax.demo',
    'export': 'multitrain_jax.export',
    'import': 'multitrain_jax.import_torch',
    'projections': 'multitrain_jax.projections',
    'report': 'multitrain_jax.report',
    'ava_eval': 'multitrain_jax.ava_eval',
    'doctor': 'multitrain_jax.doctor',
}


def _summary(module: str) -> str:
    """The beginning of a command's docstring; the module is read: an import would take seconds."""
    spec = importlib.util.find_spec(module)
    if spec.submodule_search_locations:
        spec = importlib.util.find_spec(f'{module}.__main__')
    docstring = ast.get_docstring(ast.parse(spec.loader.get_source(spec.name)))
    return ' '.join(docstring.partition('\n\n')[0].splitlines())


def help_text() -> str:
    """What `multitrain --help` prints: every command with what it does."""
    commands = '\n'.join(f'  {name:12} {_summary(module)}' for name, module in COMMANDS.items())
    return f"""{__doc__}

usage: multitrain COMMAND ...        multitrain COMMAND --help tells more, with an example

{commands}

Experiments that come with it (--config=NAME): {', '.join(config_reading.shipped())}
First: multitrain train --config=quickstart --workdir=runs/quickstart"""


def _version() -> str:
    import importlib.metadata  # here, since it takes as long as all else

    try:
        return importlib.metadata.version('multitrain_jax')
    except importlib.metadata.PackageNotFoundError:
        return 'not installed, run from its source'


def main() -> int:
    """Runs the command that the first argument names, as `python -m MODULE` does."""
    name, *arguments = sys.argv[1:] or ['']
    if name in ('', '-h', '--help', 'help'):
        print(help_text())
        return 0 if name else EXIT_USER_ERROR
    if name == '--version':
        print(f'multitrain_jax {_version()}')
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        mend = f'did you mean {near[0]!r}?' if near else f'there are {", ".join(COMMANDS)}'
        print(f'error: {name!r} is no command; {mend} (help: multitrain --help)', file=sys.stderr)
        return EXIT_USER_ERROR
    sys.argv[1:] = arguments
    runpy.run_module(COMMANDS[name], run_name='__main__', alter_sys=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
