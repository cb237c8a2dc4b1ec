"""Which implementation a program has in it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from multitrain_jax.ops.platforms import by_platform, nvidia_capability, only


@pytest.mark.parametrize(('platform', 'factor'), [('cpu', 2.0), ('default', 3.0), ('tpu', 3.0)])
def test_a_program_for_one_platform_has_no_choice_in_it(platform, factor):
    function = by_platform(cpu=lambda x: 2 * x, default=lambda x: 3 * x)
    assert 'platform_index' in str(jax.make_jaxpr(function)(jnp.ones(())))
    with only(platform):
        function = by_platform(cpu=lambda x: 2 * x, default=lambda x: 3 * x)
        program = jax.make_jaxpr(function)(jnp.ones(()))
    assert 'platform_index' not in str(program) and f'{factor}' in str(program)
    assert 'platform_index' in str(
        jax.make_jaxpr(by_platform(cpu=jnp.sin, default=jnp.cos))(jnp.ones(()))
    )


@pytest.mark.parametrize(
    ('platform', 'known', 'capability'),
    [
        ('gpu', dict(compute_capability='8.6'), 8.6),
        ('gpu', {}, 9.0),  # described
        ('gpu', dict(compute_capability='gfx942'), 0.0),  # not NVIDIA's
        ('tpu', {}, 0.0),
    ],
)
def test_capability_of_gpus(platform, known, capability):
    assert nvidia_capability(SimpleNamespace(platform=platform, **known)) == capability
