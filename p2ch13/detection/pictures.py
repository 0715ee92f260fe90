"""Overlays of masks on slices, written as PNG."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from p2ch13.data.datasets import Luna2dSegmentationDataset
from p2ch13.detection.colors import COMPARED, FALSE_POSITIVE, MARKED, MISSED, TRUE_POSITIVE, Color, explain
from p2ch13.detection.findings import Finding
from p2ch13.util.files import atomic_write
from p2ch13.util.progress import show_progress

LUNG_WINDOW_HU = (-1350.0, 150.0)  # black and white: level -600, width 1500
COLOR_WEIGHT = 0.5
ENLARGED = 4  # times, of a finding's surroundings
CAPTION_PIXELS, LINE_PIXELS, CAPTION_MARGIN = 14, 18, 4  # at least
LEAST_WIDTH = 256  # pixels of a caption
LETTER_SHARE = 64  # of an image's width, for the height of letters: wide images are shown smaller
PNG_LEVEL = 3  # compression; higher levels hardly make files smaller
Image = NDArray[np.uint8]  # (row, col, 3)
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
# (batch, 7, row, col) in HU -> the predicted mask, bool (batch, 1, row, col).
Predictor = Callable[[torch.Tensor], torch.Tensor]


def predict_slice(
    dataset: Luna2dSegmentationDataset, predict: Predictor, series_uid: str, slice_ndx: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return HU, prediction and label of a slice, each (row, col)."""
    hu, label, *_ = dataset.get_full_slice(series_uid, slice_ndx)
    return hu[len(hu) // 2].numpy(), predict(hu.unsqueeze(0))[0, 0].cpu().numpy(), label[0].numpy()


def draw_overlay(hu: NDArray[Any], is_predicted: NDArray[np.bool_], label: NDArray[np.bool_]) -> Image:
    """Draw a slice in a lung window, with true positive, missed and false positive pixels in their colors.

    Args: hu, prediction and label of the slice, each (row, col).
    """
    image = draw_gray(hu)
    blend(image, is_predicted & label, TRUE_POSITIVE)
    blend(image, ~is_predicted & label, MISSED)
    blend(image, is_predicted & ~label, FALSE_POSITIVE)
    return image


def draw_gray(hu: NDArray[Any]) -> Image:
    """Draw a slice, (row, col), in a lung window."""
    return np.repeat(as_gray(hu)[..., np.newaxis], 3, axis=2)


def as_gray(hu: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert HU, of any shape, to gray in a lung window."""
    black, white = LUNG_WINDOW_HU
    gray: NDArray[np.uint8] = ((hu - black) * (255 / (white - black))).clip(0, 255).round().astype(np.uint8)
    return gray


def blend(image: Image, where: NDArray[np.bool_], color: Color) -> None:
    """Blend a color into the pixels of an image that a mask, (row, col), marks."""
    image[where] = ((1 - COLOR_WEIGHT) * image[where] + COLOR_WEIGHT * np.array(color.rgb)).round()


def draw_findings(dataset: Luna2dSegmentationDataset, predict: Predictor, series_count: int = 4) -> Image:
    """Draw the largest nodule of each of the first series that have one, a row for each, below captions."""
    rows = []
    series_list = [uid for uid in dataset.series_list if dataset.index.nodules[uid]][:series_count]
    for series_uid in show_progress(series_list, "Drawing findings", "series"):
        ct = dataset.index.get_ct(series_uid)
        nodule = dataset.index.nodules[series_uid][0]
        center = ct.locate(nodule.center_xyz)
        images = draw_row(*predict_slice(dataset, predict, series_uid, center.index), center.row, center.col)
        captions = [
            f"{series_uid}, slice {center.index}",
            f"nodule of {nodule.diameter_mm:.1f} mm; pixels enlarged {ENLARGED} times",
            explain(*COMPARED),
        ]
        rows.append([write_caption(image, caption) for image, caption in zip(images, captions, strict=True)])
    return stack(rows)


def draw_nodules(hu: NDArray[np.int16], labels: NDArray[np.int32], findings: Sequence[Finding]) -> Image:
    """Draw the findings of an unlabeled scan, a row for each.

    Args:
        hu, labels: (index, row, col), axial slices with rows to the back, as in `Ct`.
        findings: each is drawn in its largest slice; without any, the scan's middle slice is.
    """
    rows = []
    for finding in findings:
        is_nodule = labels == finding.number
        index = int(is_nodule.sum(axis=(1, 2)).argmax())
        row, col = (round(float(axis.mean())) for axis in np.nonzero(is_nodule[index]))
        plain, marked = draw_gray(hu[index]), draw_gray(hu[index])
        blend(marked, labels[index] > 0, MARKED)
        captions = [
            f"finding {finding.number}, slice {index}: probability {finding.probability:.2f}",
            f"as a sphere {finding.diameter_mm:.1f} mm; pixels enlarged {ENLARGED} times",
            explain(MARKED),
        ]
        images = [marked, enlarge(plain, row, col), enlarge(marked, row, col)]
        rows.append([write_caption(image, caption) for image, caption in zip(images, captions, strict=True)])
    middle = len(hu) // 2
    return stack(rows or [[write_caption(draw_gray(hu[middle]), f"slice {middle}: no findings in this scan")]])


def draw_row(
    hu: NDArray[Any], is_predicted: NDArray[np.bool_], label: NDArray[np.bool_], row: int, col: int
) -> list[Image]:
    """Draw a slice's overlay, then the surroundings of a pixel enlarged, without and with the overlay."""
    nothing = np.zeros(hu.shape, dtype=bool)
    plain, overlay = draw_overlay(hu, nothing, nothing), draw_overlay(hu, is_predicted, label)
    return [overlay, enlarge(plain, row, col), enlarge(overlay, row, col)]


def stack(rows: Sequence[Sequence[Image]]) -> Image:
    """Arrange images in rows and cols of equal cells, padded with black below and to the right."""
    height = max(image.shape[0] for row in rows for image in row)
    width = max(image.shape[1] for row in rows for image in row)

    def pad(image: Image) -> Image:
        return np.pad(image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)))

    return np.vstack([np.hstack([pad(image) for image in row]) for row in rows])


def enlarge(image: Image, row: int, col: int, size: int = 128, factor: int = ENLARGED) -> Image:
    """Enlarge the `size` x `size` pixels around a pixel `factor` times; beyond the image's edge they are black."""
    padded = np.pad(image, ((size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    return padded[row : row + size, col : col + size].repeat(factor, axis=0).repeat(factor, axis=1)


def write_caption(image: Image, text: str) -> Image:
    """Put a caption above an image, white on black; it wraps at the image's width. A narrow image gets black beside."""
    image = np.pad(image, ((0, 0), (0, max(0, LEAST_WIDTH - image.shape[1])), (0, 0)))
    return np.concatenate([draw_caption(text, image.shape[1]), image], axis=0)


@lru_cache(2**10)  # TensorBoard gets the same slices after each epoch, and text takes longer to draw than they do
def draw_caption(text: str, width: int) -> Image:
    size = max(CAPTION_PIXELS, width // LETTER_SHARE)
    font, line_pixels = ImageFont.load_default(size=size), size * LINE_PIXELS // CAPTION_PIXELS
    lines = wrap_text(text, width - 2 * CAPTION_MARGIN, font)
    strip = PillowImage.new("RGB", (width, 2 * CAPTION_MARGIN + len(lines) * line_pixels))
    for number, line in enumerate(lines):
        place = (CAPTION_MARGIN, CAPTION_MARGIN + number * line_pixels)
        ImageDraw.Draw(strip).text(place, line, fill="white", font=font)
    return np.asarray(strip)


def wrap_text(text: str, width: float, font: Font) -> list[str]:
    """Split a text at spaces into lines of at most so many pixels; longer words, such as series UIDs, are split too."""
    lines = [""]
    for word in text.split():
        extended = f"{lines[-1]} {word}".lstrip()
        if font.getlength(extended) <= width:
            lines[-1] = extended
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def encode_png(image: Image) -> bytes:
    file = io.BytesIO()
    PillowImage.fromarray(image).save(file, format="PNG", compress_level=PNG_LEVEL)
    return file.getvalue()


def write_png(path: Path, image: Image) -> None:
    with atomic_write(path) as file:
        file.write(encode_png(image))
