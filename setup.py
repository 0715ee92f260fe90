"""Install with `pip install .`; the tools' settings are in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    name="p2ch13",
    version="0.1.0",
    description='Lung nodule segmentation on LUNA16, after chapter 13 of "Deep Learning with PyTorch"',
    packages=find_packages(include=["p2ch13", "p2ch13.*", "util"]),
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.4",
        "numpy>=1.26",
        "scipy>=1.11",
        "SimpleITK>=2.3",
        "diskcache>=5.6.3",
        "tensorboard>=2.15",
        "pillow>=10.1",
        "tqdm>=4.66",
        "threadpoolctl>=3.1",
        "matplotlib>=3.8",
        "requests>=2.31",
        "urllib3>=2.0",
        "filelock>=3.12",
    ],
    extras_require={
        "dicom": ["highdicom>=0.24", "pydicom>=2.4"]
    },  # for DICOM Segmentation objects, and to import LIDC-IDRI
)
