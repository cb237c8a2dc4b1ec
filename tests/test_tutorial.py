"""The notebook, run from the first cell to the last in an empty directory."""

import json

import numpy as np
import pytest

from tests.helpers.calling import ROOT

nbclient = pytest.importorskip('nbclient')
pytest.importorskip('ipykernel')
import nbformat  # noqa: E402  (nbclient brings it)


@pytest.mark.slow
def test_it_runs_and_learns(tmp_path, monkeypatch):
    monkeypatch.delenv('XLA_FLAGS', raising=False)  # the tests' eight devices
    notebook = nbformat.read(ROOT / 'docs' / 'tutorial.ipynb', as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=1200, resources={'metadata': {'path': str(tmp_path)}}
    )
    client.execute()
    accuracy = json.loads((tmp_path / 'tutorial' / 'run' / 'results.json').read_text())['accuracy']
    assert accuracy['motions']['videos'] == 50 and accuracy['motions']['top1'] > 0.3
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get('outputs', ())
        if {'image/png', 'image/jpeg'} & set(output.get('data', ()))
    ]
    assert len(pictures) == 4
    assert np.all([cell.execution_count for cell in notebook.cells if cell.cell_type == 'code'])
