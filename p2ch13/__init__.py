"""Lung nodule segmentation on LUNA16, after chapter 13 of "Deep Learning with PyTorch"."""
