"""How far the loop runs ahead of the devices, and metrics over steps."""

from multitrain_jax.optimizer import RateSchedule
from multitrain_jax.training.step_log import StepLog, merge


class Pending:
    """A metric that is still being computed."""

    def __init__(self, step, waited_for):
        self._step, self._waited_for = step, waited_for

    def block_until_ready(self):
        self._waited_for.append(self._step)
        return self


def test_one_step_waits_behind_the_one_that_runs():
    waited_for = []
    log = StepLog(
        None,
        every_steps=100,
        clips_per_step=1,
        first_step=0,
        total_steps=9,
        schedule=RateSchedule(0.1, 0.1, 0.1, 0.0, 9.0),
        watch=None,
        writer=None,
    )
    for step in range(4):
        log.add(step, {'loss': Pending(step, waited_for)})
        assert waited_for == list(range(step))  # Those before it, but not itself.


def test_merge_is_the_weighted_mean_and_leaves_out_what_never_occurred():
    steps = [
        {'loss': (2.0, 1.0), 'top1/a': (3.0, 4.0), 'top1/b': (0.0, 0.0)},
        {'loss': (4.0, 1.0), 'top1/a': (0.0, 2.0), 'top1/b': (0.0, 0.0)},
    ]
    assert merge(steps) == {'loss': 3.0, 'top1/a': 0.5}
