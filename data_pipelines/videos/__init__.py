"""Video files: frames by presentation time, test views, clips around moments, writing."""
