"""The predict command on real video files, good and bad."""

import json
import sys

import pytest

from multitrain_jax import predict
from multitrain_jax.errors import run_command
from tests.helpers import golden, tiny
from tests.helpers.tiny import quick_compile  # noqa: F401


@pytest.fixture
def call(finished_run, monkeypatch, capsys):
    """Runs the command in this process: (exit code, standard output, standard error)."""

    def run(*arguments, checkpoint=finished_run[2] / 'export'):
        monkeypatch.setattr(
            sys, 'argv', ['predict', f'--checkpoint={checkpoint}', *map(str, arguments)]
        )
        with pytest.raises(SystemExit) as end:
            run_command(predict.main)
        return end.value.code, *capsys.readouterr()

    return run


def test_table(call):
    video = golden.shared_path('videos/part_0.mp4')
    code, out, err = call('--top=2', video)
    assert (code, err) == (0, '')
    lines = out.splitlines()
    assert lines[0] == str(video)
    assert len([line for line in lines if line.endswith(' %')]) == 4  # two classes of two datasets
    assert lines[1].split()[0] == 'colours' and lines[3].split()[0] == 'shades'


def test_json_and_bad_files(call, tmp_path):
    """What cannot be read is reported, the others are predicted all the same."""
    good = golden.shared_path('videos/part_0.mp4')
    bad = golden.shared_path('videos/bad/text_file.mp4')
    silent = golden.shared_path('videos/bad/audio_only.mp4')
    missing = tmp_path / 'missing.mp4'
    code, out, err = call('--json', bad, good, silent, missing)
    assert code == 2
    entries = {entry['video']: entry for entry in json.loads(out)}
    assert list(entries) == [str(bad), str(good), str(silent), str(missing)]
    lines = err.splitlines()
    assert len(lines) == 3
    for line, path in zip(lines, (bad, silent, missing)):
        assert line.startswith('error: ') and str(path) in line
        assert set(entries[str(path)]) == {'video', 'error'}
    predictions = entries[str(good)]['predictions']
    assert {name: len(best) for name, best in predictions.items()} == {'colours': 3, 'shades': 5}
    for name, best in predictions.items():
        scores = [entry['score'] for entry in best]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1, abs=1e-5)
        assert {entry['class'] for entry in best} == set(tiny.CLASSES[name])


def test_damage_is_told(call):
    video = golden.shared_path('videos/bad/truncated_faststart.mp4')
    code, out, err = call('--json', video)
    assert code == 0
    assert json.loads(out)[0]['damage']
    assert err.startswith('warning: ') and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    'name',
    ['one_frame.mp4', 'gray.mp4', 'odd_size_175x143.avi', 'rotated_90.mp4', 'alpha_vp9.webm'],
)
def test_awkward_files(call, name):
    code, out, err = call(golden.shared_path(f'videos/bad/{name}'))
    assert (code, err) == (0, '') and 'shades' in out


def test_mistakes(call, tmp_path):
    code, out, err = call('x.mp4', checkpoint=tmp_path)
    assert code == 2 and out == '' and err.startswith('error: ') and 'neither a run' in err
    assert len(err.splitlines()) == 1
    assert call('--top=0', 'x.mp4')[0] == 2
