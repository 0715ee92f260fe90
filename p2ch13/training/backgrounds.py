"""Backgrounds: unannotated lungs that nodules are painted into and negatives are taken from."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from p2ch13.config import CONTEXT_SLICES_COUNT, HU_MAX, HU_MIN, TRAINING_CROP_SIZE
from p2ch13.data.ct import Ct
from p2ch13.data.layouts import MASK_FOLDERS, has_images
from p2ch13.detection.inputs import ScanInput, choose_dicom, find_files
from p2ch13.labels.candidates import CandidateInfoTuple, group_by_series
from p2ch13.labels.known_lesions import LESIONS_FILE, read_known_lesions
from p2ch13.training.painting import ScannerLook
from p2ch13.util.boxes import Box
from p2ch13.util.errors import InputError
from p2ch13.util.memory import MemoryMappedTensor
from p2ch13.util.progress import progress_bar
from p2ch13.volumes.dicom.archive import open_archive
from p2ch13.volumes.dicom.search import find_series
from p2ch13.volumes.files import SCAN_SUFFIXES, list_scan_files
from p2ch13.volumes.lungs import dilate, downsample, erode, find_lungs
from p2ch13.volumes.point_spread import estimate_noise, estimate_point_spread

LESION_MARGIN_MM = 4.0  # around a known lesion, whose size is rounded or by eye
WALL_HU = -450  # border between lung and chest wall
THICK_MM = 4.0  # radius that vessels in the lung do not have, and mediastinum, hilum and collapsed lung do
WALL_MM = 2.0  # from the lung mask's border, whose steps are so wide, to the chest wall's surface
THICK_SLICES_MM = (3.0, 5.0)  # that thin slices are averaged to
PLACES_MM = 2.0  # spacing of the places in the lungs
VESSEL_HU = -500
SITES, SITE_ODDS = ("anywhere", "wall", "vessel"), (0.35, 0.4, 0.25)
WALL_DIAMETERS = (0.1, 0.55)  # distance of a juxtapleural nodule's center from the wall
PATIENCE = 40  # places drawn until one is clear of known lesions


class Background:
    """One unannotated lung, with the places in it.

    Its voxels are memory-mapped, see `release`.

    Args: lesions: of this scan, which may hold others than these; folder: for the memory map.
    Attributes: `path`, `series_uid`; `hu`, int16 (index, row, col), clipped to -1000..1000; `wall`, bool, shaped alike:
        what is neither lung nor lies in it; `volume`, of these voxels; `checksum` of voxels and lesions; `vx_size_irc`
        (mm); `slice_step`, from a context slice to the next; `look`.
    Raises: InputError, naming the file, for a scan that cannot be read, is too small, or shows no lungs, a lesion
        outside of it, or a disk without space for the map.
    """

    def __init__(
        self, volume: Ct, lesions: Sequence[CandidateInfoTuple], folder: Path, slice_spacing_mm: float
    ) -> None:
        self.path, self.series_uid = volume.header.path, volume.series_uid
        if min(volume.shape_irc[1:]) < TRAINING_CROP_SIZE:
            raise InputError(f"fewer than {TRAINING_CROP_SIZE} rows or columns; leave it out", path=self.path)
        lungs = find_lungs(volume.hu, volume.vx_size_xyz)
        if lungs is None:
            raise no_lungs(self.path)
        self.vx_size_irc = np.asarray(volume.vx_size_xyz[::-1], dtype=float)
        pixel_mm = float(self.vx_size_irc[2])
        self.look = ScannerLook(estimate_point_spread(volume.hu, lungs, pixel_mm), estimate_noise(volume.hu))
        self._maps = [MemoryMappedTensor(folder, volume.shape_irc, dtype) for dtype in (torch.int16, torch.bool)]
        self.hu, self.wall = (each.tensor.numpy() for each in self._maps)
        np.clip(volume.hu, HU_MIN, HU_MAX, out=self.hu)
        self.volume = volume.with_hu(self.hu)
        known = [[*one.center_xyz, one.diameter_mm] for one in lesions]
        self.checksum = zlib.crc32(self.hu.data, zlib.crc32(json.dumps(known).encode()))
        self.wall[:] = find_wall(self.hu, lungs, pixel_mm)
        self.lung_box: Box = ndimage.find_objects(lungs.astype(np.uint8))[0]
        first, last = volume.context_indexes(0, 1, slice_spacing_mm)[1:]
        self.slice_step = max(1, last - first)
        self.lesions = list(lesions)
        self.lesion_irc = np.array([volume.to_irc(one.center_xyz) for one in lesions], dtype=float).reshape(-1, 3)
        self.lesion_mm = np.array([one.diameter_mm / 2 + LESION_MARGIN_MM for one in lesions])
        self._check_lesions()
        self._find_places(lungs)
        if not len(self.places):
            raise no_lungs(self.path)
        self.release()

    def release(self) -> None:
        """Give back the memory of the voxels that were read; they stay in the map's file."""
        for each in self._maps:
            each.release()

    def _check_lesions(self) -> None:
        """Raises: InputError for a lesion no part of which lies in the scan: its coordinates are of another frame."""
        nearest = np.clip(self.lesion_irc, 0, np.array(self.hu.shape) - 1)
        away_mm = np.linalg.norm((self.lesion_irc - nearest) * self.vx_size_irc, axis=1)
        for lesion, is_outside in zip(self.lesions, away_mm > self.lesion_mm, strict=True):
            if is_outside:
                at = ", ".join(f"{value:.1f}" for value in lesion.center_xyz)
                raise InputError(
                    f"the lesion at ({at}) mm of {LESIONS_FILE} lies outside of this scan; correct its row",
                    path=self.path,
                )

    def _find_places(self, lungs: NDArray[np.bool_]) -> None:
        """List places in the lungs by their distance from the wall, and those on vessels, as voxels (place, 3)."""
        steps = [max(1, round(PLACES_MM / size)) for size in self.vx_size_irc]
        coarse = downsample(lungs, steps)
        depth_mm = ndimage.distance_transform_edt(np.pad(coarse, 1), sampling=self.vx_size_irc * steps)[
            1:-1, 1:-1, 1:-1
        ]
        voxels = np.argwhere(coarse)
        depths = depth_mm[coarse]
        order = depths.argsort(kind="stable")
        at = np.minimum(voxels[order] * steps + np.array(steps) // 2, np.array(lungs.shape) - 1)
        is_lung = ~self.wall[tuple(at.T)]
        self.places, self.depths_mm = at[is_lung], depths[order][is_lung]
        at = self.places
        self.vessels = at[(self.hu[tuple(at.T)] > VESSEL_HU) & (self.depths_mm > 2 * PLACES_MM)]

    def draw_center(self, rng: np.random.Generator, diameter_mm: float) -> NDArray[np.float64] | None:
        """Draw the center of a new nodule: anywhere in the lung, at its wall, or on a vessel, clear of known lesions.

        Returns: its position in voxels, (3,); None if no place was found.
        """
        for _ in range(PATIENCE):
            site = rng.choice(SITES, p=SITE_ODDS)
            pool = self.vessels if site == "vessel" and len(self.vessels) else self.places
            if site == "wall":
                first, last = np.searchsorted(self.depths_mm, np.multiply(WALL_DIAMETERS, diameter_mm))
                pool = self.places[first:last] if last > first else self.places
            center: NDArray[np.float64] = pool[rng.integers(len(pool))] + rng.uniform(-0.5, 0.5, 3)
            if self.is_clear(center, diameter_mm / 2):
                return center
        return None

    def is_clear(self, center_irc: NDArray[np.float64], radius_mm: float) -> bool:
        """Whether a ball does not reach a known lesion."""
        away_mm = np.linalg.norm((self.lesion_irc - center_irc) * self.vx_size_irc, axis=1)
        return bool((away_mm > self.lesion_mm + radius_mm).all())

    def shows_lesion(self, index: int, row: int, col: int, size: int) -> bool:
        """Whether the slice's window, from this row and col on, shows a part of a known lesion."""
        low = np.array([index, row, col])
        nearest = np.clip(self.lesion_irc, low, low + np.array([0, size - 1, size - 1]))
        away_mm = np.linalg.norm((self.lesion_irc - nearest) * self.vx_size_irc, axis=1)
        return bool((away_mm < self.lesion_mm).any())

    def window_at(self, row: float, col: float, size: int = TRAINING_CROP_SIZE) -> tuple[int, int]:
        """Return the first row and col of the window with this middle, moved inward at the scan's edges."""
        first_row, first_col = (
            int(np.clip(round(middle) - size // 2, 0, count - size))
            for middle, count in zip((row, col), self.hu.shape[1:], strict=True)
        )
        return first_row, first_col

    def context(self, index: int) -> NDArray[np.int64]:
        """Return the indexes of a slice and its context slices, see `Volume.context_indexes`."""
        offsets = self.slice_step * np.arange(-CONTEXT_SLICES_COUNT, CONTEXT_SLICES_COUNT + 1)
        return np.clip(index + offsets, 0, len(self.hu) - 1)


def no_lungs(path: Path) -> InputError:
    return InputError("no lungs found in this background; is it a chest CT in HU? Leave it out", path=path)


def find_wall(hu: NDArray[np.int16], lungs: NDArray[np.bool_], pixel_mm: float) -> NDArray[np.bool_]:
    """Mark what is neither lung nor vessel: dense voxels at the lungs' border, thick tissue, and all beyond."""
    reach, thick = (max(1, round(size_mm / pixel_mm)) for size_mm in (WALL_MM, THICK_MM))
    is_dense = hu > WALL_HU
    return ~lungs | (is_dense & (dilate(~lungs, reach) | dilate(erode(is_dense, thick), thick)))


def read_backgrounds(
    folder: Path, cache_dir: Path, slice_spacing_mm: float, left_out: str | None = None, thickened: bool = False
) -> list[Background]:
    """Read all scans of a folder, and the lesions that its known_lesions.csv lists.

    Args: cache_dir: where their voxels are memory-mapped; left_out: the name of one that is not read; thickened: after
        each scan of thin slices the same in thicker ones, see `find_thicker`.
    Raises: InputError for a folder without scans, a scan that cannot be used, a list of lesions of other scans, or a
        scan to leave out that is not there or the only one.
    """
    inputs = find_scans(folder)
    lesions_file = folder / LESIONS_FILE
    lesions = group_by_series(read_known_lesions(lesions_file, inputs) if lesions_file.is_file() else [])
    unknown = set(lesions) - set(inputs)
    if unknown:
        raise InputError(
            f"lesions of {sorted(unknown)[0]}, which is no scan of its folder; correct it", path=lesions_file
        )
    if left_out is not None and (left_out not in inputs or len(inputs) == 1):
        message = f"{left_out!r} is no scan, or the only one, of {', '.join(inputs)}"
        raise InputError(f"{message}; correct it", path=folder, option="--left-out-background")
    inputs.pop(left_out or "", None)
    backgrounds = []
    with progress_bar(len(inputs), "Reading backgrounds", "scan") as bar:
        for series_uid, each in inputs.items():
            # One volume at a time: each keeps its decoded voxels.
            volume = Ct(each.path, series_uid=each.series_uid)
            counts = [1, *find_thicker(float(volume.vx_size_xyz[2]))] if thickened else [1]
            for count in counts:
                slices = volume if count == 1 else volume.thickened(count)
                backgrounds.append(Background(slices, lesions[series_uid], cache_dir, slice_spacing_mm))
            bar.update()
    return backgrounds


def find_thicker(slice_mm: float) -> list[int]:
    """Find how many slices together are about as thick as those of `THICK_SLICES_MM`, as far as it is more than one."""
    return sorted({round(thick_mm / slice_mm) for thick_mm in THICK_SLICES_MM} - {0, 1})


def find_scans(folder: Path) -> dict[str, ScanInput]:
    """Find the scans of a folder and of all folders in it: files and DICOM series, see `choose_dicom`.

    Returns: series UID or file name -> scan, sorted.
    Raises: InputError without the folder or any scan, or for two of one name.
    """
    root = open_archive(folder)
    if not root.is_dir():
        raise InputError("no such folder; give one with CT scans", path=folder, option="--backgrounds")
    scans: dict[str, ScanInput] = {}
    for scan in sorted([*list_files(root), *choose_dicom(find_series(root))], key=lambda each: each.name):
        if scan.name in scans:
            raise InputError(f"the same name as {scans[scan.name].path}; rename one of the two", path=scan.path)
        scans[scan.name] = scan
    if not scans:
        raise InputError(f"no scan ({', '.join(SCAN_SUFFIXES)}, DICOM) in this folder or below", path=folder)
    return scans


def list_files(folder: Path) -> Iterator[ScanInput]:
    """List the scans of a folder and of those in it that are files; of a data folder its scans, not its masks."""
    is_data_folder = bool(list_scan_files(folder)) or has_images(folder)
    yield from find_files(folder)
    for below in sorted(folder.iterdir()):
        is_listed = below.name.startswith("subset") or below.name in {*MASK_FOLDERS, *MASK_FOLDERS.values()}
        if below.is_dir() and not below.name.startswith(".") and not (is_data_folder and is_listed):
            yield from list_files(below)
