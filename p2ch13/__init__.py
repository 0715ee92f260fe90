"""Lung nodule segmentation on LUNA16, after chapter 13 of "Deep Learning with PyTorch"."""

from pathlib import Path

# In a checkout without symbolic links, as on Windows, `p2ch13/util` is no folder: util/ is found beside p2ch13/.
if not Path(__file__).with_name("util").is_dir():
    __path__.append(str(Path(__file__).parents[1]))
