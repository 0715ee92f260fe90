"""Helpers for any program: coordinates, boxes, the U-Net, files, downloads, processes, messages."""
