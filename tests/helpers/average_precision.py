"""Average precision of boxes by its definition, for comparison."""

import numpy as np


def _one_overlap(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def average_precision_by_loops(truth, detections, action, protocol, actions, empty=()):
    """The definition, one detection after the other."""
    valid = [
        i
        for i in range(len(truth))
        if truth.action[i] == action and (truth.box[i, :2] < truth.box[i, 2:]).all()
    ]
    listed = [i for i in range(len(detections)) if detections.action[i] in actions]
    if protocol.max_rows is not None:
        frames = {
            frame: [i for i in listed if detections.key_frame[i] == frame] for frame in range(6)
        }
        listed = [
            i
            for some in frames.values()
            for i in sorted(some, key=lambda i: -detections.score[i])[: protocol.max_rows]
        ]
    if protocol.ignore_unannotated:
        annotated = {*truth.key_frame.tolist(), *empty}
        listed = [i for i in listed if detections.key_frame[i] in annotated]
    listed = [
        i
        for i in listed
        if detections.action[i] == action and (detections.box[i, :2] < detections.box[i, 2:]).all()
    ]
    taken, right = set(), {}
    for i in sorted(listed, key=lambda i: -detections.score[i] if protocol.match_by_score else i):
        own = [j for j in valid if truth.key_frame[j] == detections.key_frame[i]]
        best = max(own, key=lambda j: _one_overlap(truth.box[j], detections.box[i]), default=None)
        right[i] = (
            best is not None
            and best not in taken
            and _one_overlap(truth.box[best], detections.box[i]) >= 0.5
        )
        if right[i]:
            taken.add(best)
    if not valid:
        return np.nan
    hits, points = 0, []
    for rank, i in enumerate(sorted(listed, key=lambda i: -detections.score[i]), 1):
        hits += right[i]
        points.append((hits / len(valid), hits / rank))
    area, recall = 0.0, 0.0
    for k, (r, _) in enumerate(points):
        area += (r - recall) * max(p for _, p in points[k:])
        recall = r
    return area
