"""Kills, full disks, damaged and mutated files: what must not be lost by them."""

SAMPLES_PER_EPOCH = 300  # of each of three epochs of the training that is killed
