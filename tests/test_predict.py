"""The predict command on real video files, good and bad."""

import csv
import io
import json
import sys

import pytest

from data_pipelines.videos import video_file
from multitrain_jax import predict
from multitrain_jax.errors import run_command
from tests.helpers import golden, tiny
from tests.helpers.tiny import quick_compile  # noqa: F401
from tests.helpers.video_writer import write_numbered


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


def test_one_frame_is_explained(call, tmp_path):
    video, heat = golden.shared_path('videos/bad/one_frame.mp4'), tmp_path / 'heat.mp4'
    code, _, err = call(f'--explain={heat}', video)
    assert (code, len(err.splitlines())) == (0, 1)
    assert heat.stat().st_size and heat.with_suffix('.png').stat().st_size


def test_mistakes(call, tmp_path):
    code, out, err = call('x.mp4', checkpoint=tmp_path)
    assert code == 2 and out == '' and err.startswith('error: ') and 'neither a run' in err
    assert len(err.splitlines()) == 1
    assert call('--top=0', 'x.mp4')[0] == 2


def test_windows_of_a_long_video(call, tmp_path):
    """Table, JSON, csv and pictures tell the same; the overlay shows what is said at each time."""
    video = golden.shared_path('videos/demo.mp4')  # 10 s
    csv_file, line, overlay = (tmp_path / name for name in ('w.csv', 'line.png', 'overlay.mp4'))
    options = [f'--csv={csv_file}', f'--timeline={line}', f'--overlay={overlay}']
    code, out, err = call('--json', '--window=2', '--stride=1', *options, video)
    assert code == 0 and err == f'{overlay}: written\n'
    (entry,) = json.loads(out)
    windows = entry['windows']
    assert [(w['start'], w['end']) for w in windows] == [(float(k), k + 2.0) for k in range(9)]
    for name in ('colours', 'shades'):
        by_window = [
            {pair['class']: pair['score'] for pair in window['predictions'][name]}
            for window in windows
        ]
        for pair in entry['predictions'][name]:  # of the video: the windows' mean
            mean = sum(own[pair['class']] for own in by_window) / len(by_window)
            assert pair['score'] == pytest.approx(mean, abs=1e-5)
    with open(csv_file, newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 * (3 + 5)
    for row, window in zip(rows[::8], windows):
        best = window['predictions']['colours'][0]
        assert (row['rank'], row['class']) == ('1', best['class'])
        assert float(row['start']) == window['start']
        assert float(row['score']) == pytest.approx(best['score'], abs=1e-6)
    assert line.stat().st_size > 10_000
    made = video_file.read_frames(overlay)
    assert abs(made.frames.shape[0] - 280) <= 1 and made.frames.shape[1:] == (256, 340, 3)
    code, table, _ = call('--window=2', '--stride=1', video)
    assert code == 0 and table.count(' - ') == 9
    assert f'{100 * windows[3]["predictions"]["colours"][0]["score"]:5.1f} %' in table
    assert call('--window=2', '--stride=1', video, video)[1] == 2 * table


def test_lists_and_standard_input(call, tmp_path, monkeypatch):
    name = golden.shared_path('videos/part_0.mp4')
    (tmp_path / 'list.csv').write_text(f'video_path,label\n{name},3\n')
    _, expected, _ = call(name)
    assert call(tmp_path / 'list.csv') == (0, expected, '')
    monkeypatch.setattr(sys, 'stdin', io.StringIO(f'{name}\n'))
    assert call('-') == (0, expected, '')


def test_follow_gives_a_line_for_each_window(call, tmp_path):
    video = tmp_path / 'v.ts'
    write_numbered(video, 47, rate=10, codec='mpeg2video')
    code, out, err = call('--follow', '--json', '--window=10f', '--silence=0.5', video)
    lines = [json.loads(line) for line in out.splitlines()]
    assert (code, err, len(lines)) == (0, '', 5)
    assert lines[1]['start'] == pytest.approx(1.0, abs=0.01) and lines[1]['video'] == str(video)


def test_a_workdir_is_a_model(call, finished_run):
    video = golden.shared_path('videos/part_0.mp4')
    assert call(video, checkpoint=finished_run[2])[1] == call(video)[1]
