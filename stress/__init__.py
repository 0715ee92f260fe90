"""Stress runs: kills, full disks, damaged and mutated files must not lose anything."""

SAMPLES_PER_EPOCH = 300  # in each of three epochs of the killed training
