"""Profiles of small programs: every operation is counted as often as it
runs and belongs to a part of the model.
"""

import collections
import math

import jax
import jax.numpy as jnp
import pytest

from benchmarks import synthetic_step
from tools import profile_plot, profile_step, profile_trace

_ROUNDS, _SIDE, _STEPS = 5, 64, 3


@pytest.fixture(scope='module', autouse=True)
def scopes_of_this_code():
    """Without it, programs from the tests' cache have the scopes of the code that filled it."""
    jax.config.update('jax_compilation_cache_include_metadata_in_key', True)
    yield
    jax.config.update('jax_compilation_cache_include_metadata_in_key', False)


def _loss(x, weights):
    def body(x, weight):
        with jax.named_scope('block'), jax.named_scope('mlp'):
            return jnp.tanh(x @ weight), None

    x, _ = jax.lax.scan(body, x, weights)
    with jax.named_scope('loss'):
        return jnp.sum(jnp.square(x))


@pytest.fixture(scope='module')
def loop():
    """(profile, times that each operation was executed in a step)
    of the gradient of a loop of products.
    """
    args = jnp.ones((_SIDE, _SIDE)), jnp.ones((_ROUNDS, _SIDE, _SIDE)) / _SIDE
    compiled = jax.jit(jax.grad(_loss, (0, 1))).lower(*args).compile()

    def step():
        jax.block_until_ready(compiled(*args))

    trace = profile_trace.trace(step, _STEPS)
    events = [
        dict(event.stats) for plane in trace.planes for line in plane.lines for event in line.events
    ]
    executed = collections.Counter(stats['hlo_op'] for stats in events if 'hlo_op' in stats)
    return profile_step.profile(compiled, step, _STEPS, 'float32'), executed


def test_a_loop_counts_as_often_as_it_runs(loop):
    result, _ = loop
    # One product forward, two in the gradient.
    assert result.kinds()['mlp'].products == 3 * _ROUNDS * 2 * _SIDE**3
    assert result.kinds()['mlp'].other >= _ROUNDS * _SIDE**2  # tanh


def test_operations_are_executed_as_often_as_counted(loop):
    result, executed = loop
    assert any(runs == _ROUNDS for _, runs, _ in result.operations.values())
    for name, (_, runs, _) in result.operations.items():
        assert executed[name] in (0, runs * _STEPS), (
            name
        )  # 0: the compiler's buffers made it needless


def test_rows_add_up_to_the_step(loop):
    result, _ = loop
    rows = result.kinds().values()
    assert all(row.ms >= row.backward_ms >= 0 for row in rows)
    assert result.not_attributed_ms >= 0
    assert sum(row.ms for row in rows) + result.not_attributed_ms == pytest.approx(result.step_ms)
    assert (
        result.kinds()['mlp'].backward_ms > 0
        and result.kinds()['loss'].backward_ms < result.kinds()['mlp'].ms
    )


def test_picture(loop, tmp_path):
    profile_plot.draw(loop[0], tmp_path / 'profile.png', 'a loop')
    assert (tmp_path / 'profile.png').read_bytes().startswith(b'\x89PNG')


@pytest.fixture(scope='module')
def tiny():
    config = profile_step.experiment('tiny', 'multitrain', batch=2, recipe=False, remat=False)
    step, state, share = synthetic_step.training_step(config, 10)
    return config, profile_step.count(step.lower(state, share).compile().as_text(), 1e12, 1e11)


def test_products_of_a_model_are_those_of_its_shapes(tiny):
    config, (table, _, _) = tiny
    backbone, batch = config.model.backbone, config.batch_size
    mlp = linear = attention = 0
    tokens = math.prod(backbone.patch_grid)
    for block in (block for stage in backbone.block_shapes() for block in stage):
        queries = tokens // math.prod(block.query_stride)
        keys = tokens // math.prod(block.kv_stride)
        linear += tokens * block.width_in * 3 * block.width + queries * block.width**2
        attention += 2 * queries * keys * block.width
        mlp += 2 * queries * block.width * int(backbone.mlp_ratio * block.width)
        tokens = queries
    found = collections.Counter()
    for kind, _, row in table.values():
        found[kind] += row.products
    # Multiply and add, and two gradients of each product.
    assert found['mlp'] == 6 * batch * mlp
    assert found['attention_linear'] == 6 * batch * linear
    assert found['attention'] == 6 * batch * attention


def test_operations_of_a_model_belong_to_its_parts(tiny):
    _, (table, backward, where) = tiny
    kinds = {kind for kind, _, _ in table.values()}
    assert kinds >= {
        'attention',
        'attention_linear',
        'pooling',
        'layer_norm',
        'mlp',
        'max_pool',
        'skip_linear',
        'patch_embedding',
        'heads',
        'loss',
        'augmentation',
        'optimizer',
    }
    moved = collections.Counter()
    for kind, _, row in table.values():
        moved[kind] += row.bytes
    assert moved['other'] < 0.02 * moved.total()
    assert backward and not any(
        table[name][0] in ('optimizer', 'augmentation') for name in backward
    )
    assert set(where) == set(table)


def test_time_of_operations_that_overlap_is_shared():
    spans = [('a', 0, 10), ('b', 5, 10), ('a', 20, 21), ('c', 20, 24)]
    assert profile_trace.shared_times(spans) == {'a': 5 + 2.5 + 0.5, 'b': 2.5, 'c': 0.5 + 3}


def _host(*lines: str) -> jax.profiler.ProfileData:
    """Threads of a CPU; each of their events: name of stat and number,
    or an operation, start, end, in us.
    """
    names = [
        'ThreadpoolListener::Record',
        'ThreadpoolListener::StartRegion',
        'ThreadpoolListener::StopRegion',
        'op',
    ]
    text = 'planes { name: "/host:CPU" '
    for line in lines:
        text += 'lines { '
        for event in line.split(','):
            what, value, start, end = event.split()
            number = names.index(next(name for name in names if name.endswith(what)))
            stat = (
                f'{number} str_value: "{value}"'
                if what == 'op'
                else f'{number} int64_value: {value}'
            )
            duration = (int(end) - int(start)) * 10**6
            text += (
                f'events {{ metadata_id: {number} offset_ps: {start}000000 duration_ps: '
                f'{duration} stats {{ metadata_id: {stat} }} }} '
            )
        text += '} '
    for number, name in enumerate(names):
        text += f'event_metadata {{ key: {number} value {{ id: {number} name: "{name}" }} }} '
    for number, name in enumerate(['_p', '_c', 'unused', 'hlo_op']):
        text += f'stat_metadata {{ key: {number} value {{ id: {number} name: "{name}" }} }} '
    return jax.profiler.ProfileData.from_text_proto(text + '}')


def test_on_cpu_an_operation_is_what_each_thread_does_for_it():
    # A loop with operation a, of which another thread gets a part while it does b; it hands on a
    # piece of that part.
    found = profile_trace.intervals(
        _host(
            'op loop 0 30,op a 10 20,Record 7 12 12',
            'op b 0 15,StartRegion 7 16 16,Record 8 18 18,StopRegion 0 25 25',
            'StartRegion 8 26 26,StopRegion 0 28 28',
        )
    )
    assert sorted((name, start / 1000, end / 1000) for name, start, end in found) == [
        ('a', 10, 20),
        ('a', 16, 25),
        ('a', 26, 28),
        ('b', 0, 15),
        ('loop', 0, 10),
        ('loop', 20, 30),
    ]


def test_kernels_of_a_device_are_known_by_their_operation():
    profile = jax.profiler.ProfileData.from_text_proto(
        """
        planes {
          name: "/device:GPU:0"
          lines { name: "Stream #1(Compute)" timestamp_ns: 1000
            events { metadata_id: 1 offset_ps: 2000 duration_ps: 5000 stats { metadata_id: 1 str_value: "fusion.3" } }
            events { metadata_id: 2 offset_ps: 9000 duration_ps: 1000 } }
          event_metadata { key: 1 value { id: 1 name: "loop_add_fusion" } }
          event_metadata { key: 2 value { id: 2 name: "memcpy" } }
          stat_metadata { key: 1 value { id: 1 name: "hlo_op" } }
        }
        planes {
          name: "/host:CPU"
          lines { name: "python" timestamp_ns: 1000
            events { metadata_id: 1 offset_ps: 0 duration_ps: 9000 stats { metadata_id: 1 str_value: "fusion.3" } } }
          event_metadata { key: 1 value { id: 1 name: "fusion.3" } }
          stat_metadata { key: 1 value { id: 1 name: "hlo_op" } }
        }
        """
    )
    assert profile_trace.intervals(profile) == [('fusion.3', 1002, 1007)]
