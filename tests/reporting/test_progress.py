"""Durations, speeds, and who is shown which line."""

import logging

import pytest

from multitrain_jax.reporting import progress


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [
        (5, '5s'),
        (59.6, '1m00s'),
        (75, '1m15s'),
        (3599, '59m59s'),
        (7300, '2h01m'),
        (float('inf'), '?'),
    ],
)
def test_duration(seconds, text):
    assert progress.duration(seconds) == text


def test_countdown(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: clock[0])
    countdown = progress.Countdown(total=100, done=10)
    assert countdown.update(10)[0] == 0
    clock[0] += 5
    assert countdown.update(20) == (2.0, 40.0)
    clock[0] += 1000  # evaluating
    countdown.restart(20)
    clock[0] += 5
    assert countdown.update(40) == (4.0, 15.0)


def test_a_countdown_follows_changes_of_speed(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: clock[0])
    countdown = progress.Countdown(total=1000)
    for done in range(1, 200):
        clock[0] += 10 if done < 100 else 1
        rate, left = countdown.update(done)
    assert rate == pytest.approx(1) and left == pytest.approx(801)


def test_console_shows_our_lines_and_errors_and_the_file_everything(tmp_path, capsys):
    root = logging.getLogger()
    before, level = root.handlers[:], logging.getLogger('multitrain_jax').level
    try:
        progress.set_up_logging(tmp_path)
        logging.getLogger('multitrain_jax').info('ours')
        logging.getLogger('elsewhere').warning('theirs')
        logging.getLogger('elsewhere').error('broken')
        for handler in root.handlers:
            handler.flush()
    finally:
        root.handlers[:] = before
        logging.getLogger('multitrain_jax').setLevel(level)
    err = capsys.readouterr().err
    assert 'ours' in err and 'broken' in err and 'theirs' not in err
    written = (tmp_path / 'log.txt').read_text()
    assert all(word in written for word in ('ours', 'theirs', 'broken'))
