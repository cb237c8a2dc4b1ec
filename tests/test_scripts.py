"""The launch scripts: their syntax, what they say to a wrong call,
the exit code that they hand on.
"""

import pathlib
import subprocess

import pytest

SCRIPTS = pathlib.Path(__file__).parent.parent / 'scripts'


@pytest.mark.parametrize('name', ['local_processes.sh', 'slurm.sbatch', 'tpu_pod.sh'])
def test_bash_reads_it(name):
    assert {path.name for path in SCRIPTS.iterdir()} == {
        'local_processes.sh',
        'slurm.sbatch',
        'tpu_pod.sh',
    }
    done = subprocess.run(['bash', '-n', SCRIPTS / name], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')


@pytest.mark.parametrize(
    ('name', 'arguments'), [('local_processes.sh', ['two', 'true']), ('tpu_pod.sh', ['pod'])]
)
def test_a_wrong_call_shows_a_right_one(name, arguments):
    done = subprocess.run([SCRIPTS / name, *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith('usage: ')


def test_local_processes_get_their_numbers_and_the_first_failure_is_handed_on():
    code = 'echo "$@"; case "$3" in --process_id=1) exit 7;; esac'
    done = subprocess.run(
        [SCRIPTS / 'local_processes.sh', '3', 'bash', '-c', code, 'name'],
        capture_output=True,
        text=True,
    )
    lines = sorted(done.stdout.splitlines(), key=lambda line: line[-1])
    assert done.returncode == 7 and len({line.split()[0] for line in lines}) == 1
    assert [line.split()[1:] for line in lines] == [
        ['--num_processes=3', f'--process_id={number}'] for number in range(3)
    ]


def test_a_tpu_pod_gets_the_code_then_the_command(tmp_path):
    """With a gcloud that only says what it is asked for."""
    gcloud = tmp_path / 'gcloud'
    gcloud.write_text('#!/bin/bash\necho "$@"\n')
    gcloud.chmod(0o755)
    command = [SCRIPTS / 'tpu_pod.sh', 'pod', 'zone', '--config=a b.py', '--workdir=/w']
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={'PATH': f'{tmp_path}:/usr/bin:/bin', 'HOME': str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    copied, *_, started = done.stdout.splitlines()
    assert copied.startswith('compute tpus tpu-vm scp') and copied.endswith(
        '--zone=zone --worker=all'
    )
    assert started.endswith(r'run.py --multi_host --config=a\ b.py --workdir=/w ')
