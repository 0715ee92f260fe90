"""The scanner: slice positions, pixel size, blur and noise of the reconstruction, field of view, table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p2ch13.phantom.fields import Floats, coverage
from p2ch13.phantom.painting import Grid

OUTSIDE_HU = -3024  # of some scanners, outside their field of view
LOWEST_Z, HIGHEST_Z = -128.0, 100.0  # heights of the chest that scans lie between, mm
LAST_START_Z = 55.0  # there is little lung above
HU_RANGE = (-1024, 3071)


@dataclass(frozen=True)
class Protocol:
    """Acquisition and reconstruction of one scan."""

    pixels: int  # rows and cols
    pixel_mm: float
    slice_mm: float
    slice_count: int
    lowest_z: float  # chest coordinates, mm
    center_xy: tuple[float, float]  # middle of the field of view, chest coordinates, mm
    blur_mm: float  # standard deviation of the point spread
    sharpening: float  # overshoot of the kernel at edges
    noise_hu: float  # standard deviation in the middle of the body
    noise_cutoff: float  # of the noise spectrum, in cycles per pixel
    streaks: float  # share of noise that runs along the broad side of the body, 0..1
    overlap: float  # correlation of the noise in neighboring slices, 0..1
    round_view: bool  # nothing measured outside a circle
    flipped: bool  # stored with x and y reversed
    table_y: float  # height of the table, chest coordinates, mm
    table_density: float  # of its shell, relative to water

    def grid(self) -> Grid:
        """Voxel centers in the chest's coordinates."""
        pixels = (np.arange(self.pixels) - (self.pixels - 1) / 2) * self.pixel_mm
        slices = self.lowest_z + self.slice_mm * np.arange(self.slice_count)
        x, y, z = self.center_xy[0] + pixels, self.center_xy[1] + pixels, slices
        return Grid(x.astype(np.float32), y.astype(np.float32), z.astype(np.float32))


def draw_protocol(rng: np.random.Generator, pixels: int, slice_count: int, body_xy_mm: tuple[float, float]) -> Protocol:
    """Draw a random protocol for a body with the given half width and half depth."""
    half_width, half_depth = body_xy_mm
    field_mm = 2 * half_width * rng.uniform(0.84, 1.1)
    pixel_mm = float(np.clip(field_mm / pixels, 0.5 * 512 / pixels, 0.92 * 512 / pixels))
    slice_mm = float(rng.choice([0.625, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0], p=[0.08, 0.14, 0.24, 0.12, 0.16, 0.2, 0.06]))
    height = slice_mm * slice_count
    sharpness = rng.random()  # 0 a soft kernel, 1 a sharp one
    dose_noise = float(np.exp(rng.normal(np.log(24), 0.45)))
    return Protocol(
        pixels=pixels,
        pixel_mm=pixel_mm,
        slice_mm=slice_mm,
        slice_count=slice_count,
        lowest_z=float(rng.uniform(LOWEST_Z, max(min(HIGHEST_Z - height, LAST_START_Z), LOWEST_Z + 10))),
        center_xy=(float(rng.normal(0, 8)), float(rng.normal(10, 10))),
        blur_mm=float(0.75 - 0.33 * sharpness),
        sharpening=float(0.9 * max(sharpness - 0.35, 0)),
        noise_hu=dose_noise * (0.7 + 1.6 * sharpness**1.5) / np.sqrt(max(slice_mm, 1) / 1.5),
        noise_cutoff=float(0.2 + 0.22 * sharpness),
        streaks=float(rng.uniform(0.05, 0.5)),
        overlap=float(max(rng.uniform(-0.5, 0.6), 0)),
        round_view=bool(rng.random() < 0.45),
        flipped=bool(rng.random() < 0.08),
        table_y=half_depth + 15 + float(rng.uniform(2, 12)),
        table_density=float(rng.uniform(0.4, 1.3)),
    )


class Scanner:
    """Turns slices of true HU into reconstructed ones."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        rows = np.fft.fftfreq(protocol.pixels)[:, None]
        cols = np.fft.rfftfreq(protocol.pixels)[None, :]
        frequency = np.sqrt(rows**2 + cols**2)
        blur = protocol.blur_mm / protocol.pixel_mm
        falloff = np.exp(-2 * (np.pi * blur * frequency) ** 2)
        boost = 1 + protocol.sharpening * (1 - np.exp(-((frequency / 0.12) ** 2)))
        self.transfer = (falloff * boost).astype(np.float32)
        noise = np.sqrt(frequency) * np.exp(-0.5 * (frequency / protocol.noise_cutoff) ** 2)
        self.noise_transfer = _unit_noise(noise)
        self.streak_transfer = _unit_noise(noise * np.exp(-((cols / 0.07) ** 2)))
        grid = protocol.grid()
        self.x, self.y = grid.x[None, :], grid.y[:, None]
        radius = np.hypot(self.x - protocol.center_xy[0], self.y - protocol.center_xy[1])
        self.noise = np.zeros((protocol.pixels, protocol.pixels), np.float32)  # of the last slice, white
        self.unseen = radius > protocol.pixels * protocol.pixel_mm / 2 if protocol.round_view else None

    def add_table(self, hu: Floats) -> None:
        """Add a hollow table under the patient, and its lower shell."""
        sag = (self.x / 40) ** 2
        for below, share in ((0, 1.0), (7, 0.6), (26, 0.8)):
            line = coverage(np.abs(self.y - self.protocol.table_y - below + sag * (1 - below / 60)) - 0.6, 1.0)
            line *= np.abs(self.x) < 215
            hu += share * self.protocol.table_density * line * 1000 * (hu < -500)

    def image(self, hu: Floats, depth: Floats, rng: np.random.Generator) -> np.ndarray:
        """Blur one slice and add noise.

        Args:
            hu: true HU (row, col).
            depth: depth under the skin (row, col), mm: noise grows towards the middle of the body.
        Returns: int16 HU (row, col).
        """
        protocol = self.protocol
        shape = (protocol.pixels, protocol.pixels)
        strength = protocol.noise_hu * (0.6 + 0.4 * np.clip((depth + 10) / 60, 0, 1.8)).astype(np.float32)
        fresh = rng.standard_normal(shape, np.float32)
        self.noise = even = protocol.overlap * self.noise + np.float32(np.sqrt(1 - protocol.overlap**2)) * fresh
        noise = np.fft.irfft2(np.fft.rfft2(even) * self.noise_transfer, shape)
        streaky = np.fft.irfft2(np.fft.rfft2(even.T) * self.streak_transfer, shape)
        width_mm = (depth > 0).any(axis=0).sum() * protocol.pixel_mm  # at the shoulders, rays cross the most tissue
        share = np.clip(protocol.streaks * (width_mm - 200) / 150 * np.clip(np.abs(self.x) / 120, 0.2, 1), 0, 0.9)
        noise = np.sqrt(1 - share) * noise + np.sqrt(share) * streaky
        seen = np.fft.irfft2(np.fft.rfft2(hu) * self.transfer, shape) + noise * strength
        stored = np.clip(np.rint(seen), *HU_RANGE).astype(np.int16)
        if self.unseen is not None:
            stored[self.unseen] = OUTSIDE_HU
        return np.asarray(stored)


def _unit_noise(amplitude: Floats) -> Floats:
    """Scale a noise spectrum (row, half of col) so that white noise of deviation 1 keeps it."""
    power = amplitude**2
    total = 2 * power.sum() - power[:, 0].sum() - power[:, -1].sum()
    pixels = len(amplitude)
    return np.asarray(amplitude * pixels / np.sqrt(total), np.float32)
