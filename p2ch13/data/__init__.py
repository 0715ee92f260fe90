"""Volumes and annotations -> samples of training and validation.

`layouts`: where a data folder has its parts; `index`: its scans, nodules and label rules; `ct`: one scan, its mask, its
crops; `splits`: training, validation and test; `crops`: where crops are taken; `cache`: crops on disk; `prepare`: fills
it; `crop_store`: crops in memory; `sampling`: the crops of an epoch; `datasets`: both datasets.
"""
