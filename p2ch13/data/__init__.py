"""Volumes and annotations -> samples of training and validation.

`index`: the scans and nodules of a data folder; `ct`: one scan, its mask, its crops; `crops`: where crops are taken;
`cache`: crops on disk; `crop_store`: crops in memory; `sampling`: the crops of an epoch; `datasets`: both datasets.
"""
