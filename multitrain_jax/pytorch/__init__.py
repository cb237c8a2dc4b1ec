"""Reading checkpoints of PySlowFast, MultiTrain and torchvision."""
