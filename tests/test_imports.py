"""Who imports whom: read from the sources, so that nothing needs to be installed or run."""

import ast
from collections.abc import Iterator
import functools
import graphlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ('multitrain_jax', 'data_pipelines')
# Who besides `record_data` may open data_pipelines, and what of it. Settings are declared by all.
DOORS = {
    'multitrain_jax.config': {'options'},  # composes its tree of these
    'multitrain_jax.evaluation.box_metrics': {'clip'},  # the one IoU
    'multitrain_jax.ava_eval': {'annotations'},  # the official files
    'multitrain_jax.run_report': {'clip', 'inspection'},  # draws boxes
    'multitrain_jax.import_torch': {'annotations'},  # lists of classes
    # Videos of a user
    'multitrain_jax.inference': {'annotations', 'clip', 'cores', 'inspection', 'videos'},
    'multitrain_jax.diagnosis': {'clip', 'cores', 'files', 'inspection', 'videos'},
}


@functools.cache
def sources() -> dict[str, ast.Module]:
    """Syntax trees by module, `multitrain_jax.models.heads`."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob('*.py'))]
    names = ('.'.join(path.relative_to(ROOT).with_suffix('').parts) for path in paths)
    return {
        name.removesuffix('.__init__'): ast.parse(path.read_text('utf-8'))
        for name, path in zip(names, paths)
    }


@functools.cache
def imports(module: str, top_only: bool = False) -> frozenset[str]:
    """Modules of ours that one imports, also inside functions."""
    found = set()
    for node in sources()[module].body if top_only else ast.walk(sources()[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{module}: a relative import'
            found |= {node.module, *(f'{node.module}.{alias.name}' for alias in node.names)}
    return frozenset(found & sources().keys() - {module, *PACKAGES})


def room(module: str) -> str:
    """A package's room; a module that lies in none is one of its own."""
    return '.'.join(module.split('.')[:2])


def edges() -> Iterator[tuple[str, str]]:
    for module in sources():
        yield from ((module, other) for other in imports(module))


def commands() -> set[str]:
    """Modules to be run with -m."""
    return {
        name
        for name, tree in sources().items()
        if any(isinstance(n, ast.If) and '__main__' in ast.dump(n.test) for n in tree.body)
    }


def closure(module: str) -> set[str]:
    """All that importing a module imports."""
    found, todo = set(), [module]
    while todo:
        if (name := todo.pop()) not in found:
            found.add(name)
            todo += imports(name, top_only=True)
    return found


def test_no_library_imports_a_command():
    assert [edge for edge in edges() if edge[1] in commands() and edge[0] not in commands()] == []


def test_no_package_imports_a_command_of_its_own():
    """Else `python -m` warns that the command is "found in sys.modules"."""
    for command in commands():
        parents = command.split('.')[:-1]
        packages = ['.'.join(parents[: n + 1]) for n in range(len(parents))]
        assert not any(command in closure(package) for package in packages), command


def test_data_pipelines_knows_nothing_of_training():
    outside = {
        name
        for module, tree in sources().items()
        if module.startswith('data_pipelines')
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in [getattr(node, 'module', None), *(alias.name for alias in node.names)]
        if name and name.split('.')[0] in ('multitrain_jax', 'jax', 'flax', 'optax', 'orbax')
    }
    assert outside == set()


def test_few_doors_to_data_pipelines():
    for module, other in edges():
        if module.startswith('multitrain_jax') and other.startswith('data_pipelines'):
            part = other.split('.')[1]
            allowed = DOORS.get(module, DOORS.get(room(module), set())) | {'settings'}
            assert module == 'multitrain_jax.record_data' or part in allowed, (module, other)


def test_few_know_which_backbone_it_is():
    """All else asks `models.backbone`: another family is a file there,
    and others' formats of it.
    """
    families = {f'multitrain_jax.models.{name}' for name in ('mvit', 'pooling_attention', 'vit')}
    rooms = {f'multitrain_jax.{name}' for name in ('models', 'pytorch', 'exporting')}
    assert {
        module for module, other in edges() if other in families and room(module) not in rooms
    } == {
        'multitrain_jax.config',  # the default
        'multitrain_jax.probing.probes',  # a probe is a plain transformer's pooler
    }


@pytest.mark.parametrize('module', ['multitrain_jax.train', 'multitrain_jax.inference.model'])
def test_data_pipelines_is_imported_where_data_are_read(module):
    """Handed batches, training needs nothing that decodes."""
    opened = {name for name in closure(module) if name.startswith('data_pipelines')}
    assert opened <= {'data_pipelines.settings', 'data_pipelines.options'}


def test_rooms_import_one_way():
    graph = {room(module): set() for module in sources()}
    for module, other in edges():
        if room(module) != room(other):
            graph[room(module)].add(room(other))
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_imports_point_where_the_page_says():
    """In docs/code.md rooms stand before those that import them."""
    (line,) = re.findall(
        r'^Imports point to the left: (.*)$', (ROOT / 'docs/code.md').read_text(), re.M
    )
    order = re.findall(r'`(\w+)`', line)
    place = {f'multitrain_jax.{name}': number for number, name in enumerate(order)}
    wrong = [
        (module, other)
        for module, other in edges()
        if place.get(room(module), len(order)) < place.get(room(other), -1)
    ]
    assert wrong == []
    rooms = {
        room(module)
        for module in sources()
        if module.count('.') == 2 and module.startswith('multitrain_jax')
    }
    assert rooms <= place.keys()


def test_the_training_step_reads_on_few_pages():
    assert len(closure('multitrain_jax.training.train_step')) < 30
    assert not {
        name
        for name in closure('multitrain_jax.training.train_step')
        if room(name).removeprefix('multitrain_jax.')
        in ('config', 'config_reading', 'checkpoints', 'reporting', 'evaluation', 'weights')
    }
