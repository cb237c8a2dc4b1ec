"""What `data_pipelines.convert` does: planning shards, writing one, worker processes, the whole."""
