"""The views of a video under one sampling."""

from data_pipelines.clip.frame_sampling import Sampling
from data_pipelines.videos.video_views import ViewRules, whole_video


def video_views(path, *, sampling, stride, target_frame_rate, **size):
    """Clips u8[V, T, H, W, 3], and what could not be decoded; `size`: other fields of the rules."""
    rules = ViewRules((Sampling(sampling, stride, target_frame_rate),), **size)
    found = whole_video(path, rules)
    return found.views[0].clips, found.damage
