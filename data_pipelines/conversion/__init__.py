"""The parts of ``data_pipelines.convert``: planning shards, writing one, worker processes."""
