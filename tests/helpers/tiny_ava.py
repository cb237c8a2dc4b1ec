"""A small AVA: official files and videos whose frames carry their number."""

import pathlib

from tests.helpers.video_writer import write_numbered

ACTIONS = """label {
  name: "stand"
  label_id: 12
  label_type: PERSON_MOVEMENT
}
label {
  name: "bend/bow (at the waist)"
  label_id: 1
  label_type: PERSON_MOVEMENT
}
label {
  name: "watch (a person)"
  label_id: 80
  label_type: PERSON_INTERACTION
}
"""
TRAIN = """movie_A,0902,0.100,0.200,0.500,0.900,12,0
movie_A,0902,0.100,0.200,0.500,0.900,80,0
movie_A,0902,0.600,0.100,0.900,0.800,1,1
movie_A,0904,0.250,0.250,0.750,1.000,12,0
movie_A,0905,0.250,0.250,0.750,1.000,80,0
movie_B,0902,0.000,0.000,1.000,0.500,1,7
"""
VALIDATION = """movie_C,0903,0.100,0.200,0.500,0.900,12,0
"""
EXCLUDED = """movie_A,0905
movie_A,1200
"""
PROPOSALS = """movie_A,0902,0.111,0.201,0.501,0.901,,0.950000
movie_A,0902,0.610,0.110,0.910,0.810,,0.990000
movie_A,0905,0.111,0.201,0.501,0.901,,0.950000
movie_C,0903,0.100,0.200,0.490,0.900,-1,0.750000
movie_C,0903,0.100,0.200,0.490,0.900,12,0.750000
"""
RATE = 25  # frames per second


def write_ava(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Writes movies that start at 900 s, of 6 s and 25 frames per second, and their files."""
    files = {
        'actions': root / 'actions.pbtxt',
        'train': root / 'train.csv',
        'validation': root / 'validation.csv',
        'excluded': root / 'excluded.csv',
        'proposals': root / 'proposals.csv',
        'timestamps': root / 'timestamps.txt',
        'videos': root / 'movies',
    }
    for name, text in (
        ('actions', ACTIONS),
        ('train', TRAIN),
        ('validation', VALIDATION),
        ('excluded', EXCLUDED),
        ('proposals', PROPOSALS),
        ('timestamps', ''.join(f'{second:04d}\n' for second in range(902, 906))),
    ):
        files[name].write_text(text)
    for folder, name in (
        ('trainval', 'movie_A.mp4'),
        ('trainval', 'movie_B.mkv'),
        ('', 'movie_C.mp4'),
    ):
        (files['videos'] / folder).mkdir(parents=True, exist_ok=True)
        write_numbered(files['videos'] / folder / name, 6 * RATE)
    return files
