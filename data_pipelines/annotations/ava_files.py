"""The files of AVA v2.2 and AVA-Kinetics, line by line. None of them has a header.

* boxes: `video,timestamp,xmin,ymin,xmax,ymax,action,person`, one line per pair of a person and an
  action. AVA-Kinetics has no person column in its Kinetics files, and lines `video,timestamp` for
  key frames on which nobody is annotated;
* action list (pbtxt): `label {name: "..." label_id: 1 label_type: ...}` (all 80 actions) or
  `item {name: "..." id: 1}` (those that are evaluated);
* excluded timestamps: `video,timestamp`; included timestamps: one per line, for all videos;
* proposals of a person detector, as PySlowFast publishes them:
  `video,timestamp,xmin,ymin,xmax,ymax,action,score`, where the action may be empty or -1.

Timestamps are seconds of the original video, written `0902` or `191.000000`; here they are whole
microseconds. https://research.google.com/ava/download.html
"""

from collections.abc import Iterator, Mapping
import dataclasses
import math
import os
import re

from data_pipelines.annotations import Box
from data_pipelines.annotations.files import parsed, read_csv, read_lines, read_text

Moment = tuple[str, int]  # a key frame: video, microseconds of the original video

_OUTSIDE = 0.01  # a box may stick out of the frame by so much (rounding); it is cut off
_TOKEN = re.compile(
    r'\s+|\#[^\n]*|(?P<text>"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\')'
    r'|(?P<word>[\w.+-]+)|(?P<mark>[{}:;,])'
)


@dataclasses.dataclass
class Frame:
    """What one file of boxes says about a key frame.

    Attributes:
      text: the timestamp as it was first written.
      where: the place of that line.
      listed: whether a file of boxes has it.
      boxes, actions, persons: one entry per line with a box; actions by their ids in the action
        list, persons -1 where the file has none.
    """

    text: str
    where: str
    listed: bool = True
    boxes: list[Box] = dataclasses.field(default_factory=list)
    actions: list[int] = dataclasses.field(default_factory=list)
    persons: list[int] = dataclasses.field(default_factory=list)


def read_actions(path: str | os.PathLike) -> dict[int, str]:
    """Action id -> name, by rising id.

    Raises:
      ValueError: it is not an action list, or an id or a name occurs twice.
    """
    names: dict[int, str] = {}
    for where, entry in _messages(path):
        name = entry.get('name', '')
        number = entry.get('label_id', entry.get('id', ''))
        if not name or not re.fullmatch(r'\d{1,6}', number):
            raise ValueError(f'{where}: wanted a name and an id (label_id) in every entry')
        if int(number) in names or name in names.values():
            raise ValueError(f'{where}: the action {name!r} or its id {number} was listed already')
        names[int(number)] = name
    if not names:
        raise ValueError(f'{os.fspath(path)}: no action in it')
    return dict(sorted(names.items()))


def _messages(path: str | os.PathLike) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, fields) of each `word {field: value ...}` of a protobuf text file."""
    text, at, tokens = read_text(path), 0, []

    def place(position: int) -> str:
        return f'{os.fspath(path)}, line {text.count(chr(10), 0, position) + 1}'

    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f'{place(at)}: not an action list (pbtxt): {text[at : at + 20]!r}')
        if match.lastgroup is not None and match[0] not in ',;':
            tokens.append((match.lastgroup, match[0], at))
        at = match.end()
    tokens = iter(tokens)

    def expect(*wanted: str) -> tuple[str, str, int]:
        kind, value, position = next(tokens, ('end', 'the end of the file', len(text)))
        if kind not in wanted and value not in wanted:
            raise ValueError(f'{place(position)}: not an action list (pbtxt): found {value[:40]}')
        return kind, value, position

    for _, value, position in tokens:
        if value not in ('item', 'label'):
            raise ValueError(
                f'{place(position)}: not an action list (pbtxt): wanted label {{ name: "wave" '
                f'label_id: 1 }} or item {{ name: "wave" id: 1 }}, found {value[:40]}'
            )
        expect('{')
        fields = {}
        while (token := expect('word', '}'))[1] != '}':
            expect(':')
            kind, content, _ = expect('word', 'text')
            if kind == 'text':
                content = re.sub(r'\\(.)', r'\1', content[1:-1])
            fields[token[1]] = content
        yield place(position), fields


def read_boxes(path: str | os.PathLike, actions: Mapping[int, str]) -> dict[Moment, Frame]:
    """The key frames of a file of boxes, in its order.

    Raises:
      ValueError: lines are damaged, or an action is not in the action list.
    """

    frames: dict[Moment, Frame] = {}

    def add(where: str, cells: list[str]) -> None:
        if len(cells) not in (2, 7, 8):
            raise ValueError(
                f'{where}: {len(cells)} columns, wanted '
                'video,timestamp,x1,y1,x2,y2,action[,person] or video,timestamp'
            )
        key_frame = moment(cells, where)
        if not any(cells[2:]):  # nobody is on it
            frames.setdefault(key_frame, Frame(cells[1], where))
            return
        action = _integer(cells[6], 'action', where)
        if action not in actions:
            raise ValueError(
                f'{where}: action {action} is not in the action list; of AVA give the complete '
                'one, ava_action_list_v2.2.pbtxt'
            )
        person = _integer(cells[7], 'person', where) if cells[7:] and cells[7] else -1
        corners = box(cells[2:6], where)
        frame = frames.setdefault(key_frame, Frame(cells[1], where))
        frame.boxes.append(corners)
        frame.actions.append(action)
        frame.persons.append(person)

    for _ in parsed(read_csv(path), add):
        pass
    if not frames:
        raise ValueError(f'{os.fspath(path)}: no line in it')
    return frames


def read_excluded(path: str | os.PathLike) -> set[Moment]:
    """The key frames of a list of excluded timestamps.

    Raises:
      ValueError: lines are damaged.
    """

    def parse(where: str, cells: list[str]) -> Moment:
        if len(cells) != 2:
            raise ValueError(f'{where}: {len(cells)} columns, wanted video,timestamp')
        return moment(cells, where)

    return set(parsed(read_csv(path), parse))


def read_timestamps(path: str | os.PathLike) -> dict[int, str]:
    """Microseconds -> as written, of a list of included timestamps.

    Raises:
      ValueError: a line is no timestamp, or there is none.
    """
    timestamps = {_microseconds(line, where): line for where, line in read_lines(path)}
    if not timestamps:
        raise ValueError(f'{os.fspath(path)}: no timestamp in it')
    return timestamps


def read_proposals(path: str | os.PathLike) -> Iterator[tuple[Moment, Box, float]]:
    """(key frame, box, score) of each line of a detector's csv.

    A box that is listed for several actions comes several times.

    Raises:
      ValueError: lines are damaged.
    """

    def parse(where: str, cells: list[str]) -> tuple[Moment, Box, float]:
        if len(cells) not in (7, 8):
            raise ValueError(
                f'{where}: {len(cells)} columns, wanted video,timestamp,x1,y1,x2,y2,[action],score'
            )
        score = _number(cells[-1], 'score', where)
        if not 0 <= score <= 1:
            raise ValueError(f'{where}: score {cells[-1]}, wanted 0 to 1')
        return moment(cells, where), box(cells[2:6], where), score

    return parsed(read_csv(path), parse)


def moment(cells: list[str], where: str) -> Moment:
    """The key frame that the first two cells of a line name.

    Raises:
      ValueError: they name none.
    """
    if not cells[0]:
        raise ValueError(f'{where}: no video')
    return cells[0], _microseconds(cells[1], where)


def _microseconds(text: str, where: str) -> int:
    seconds = _number(text, 'timestamp', where)
    if not 0 <= seconds < 1e6:
        raise ValueError(f'{where}: timestamp {text}, wanted seconds since the start of the video')
    return round(seconds * 1e6)


def box(cells: list[str], where: str) -> Box:
    """The box of four cells, x1, y1, x2, y2.

    Raises:
      ValueError: they are no box inside the frame.
    """
    sides = [_number(cell, 'box coordinate', where) for cell in cells]
    if min(sides) < -_OUTSIDE or max(sides) > 1 + _OUTSIDE:
        raise ValueError(
            f'{where}: the box {",".join(cells)} lies outside the frame; wanted x1,y1,x2,y2 '
            'as shares of its width and height, 0 to 1'
        )
    xmin, ymin, xmax, ymax = (min(max(side, 0.0), 1.0) for side in sides)
    if xmin >= xmax or ymin >= ymax:
        raise ValueError(f'{where}: the box {",".join(cells)} has no area; wanted x1<x2 and y1<y2')
    return xmin, ymin, xmax, ymax


def _number(text: str, what: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f'{where}: {what} {text[:40]!r} is not a number')
    return value


def _integer(text: str, what: str, where: str) -> int:
    if not re.fullmatch(r'-?\d{1,18}', text):
        raise ValueError(f'{where}: {what} {text[:40]!r} is not a whole number')
    return int(text)
