"""Helpers that know nothing of lungs: coordinates, the plain U-Net, the cache on disk, messages."""
