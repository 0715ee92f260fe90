"""Contours of a mask in a slice, interpolated between pixels, and the diameters across them."""

from __future__ import annotations

import numpy as np
from contourpy import LineType, contour_generator
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull

Floats = NDArray[np.float64]
Contours = list[Floats]  # closed lines (point, 2), row and col

# Standard deviation of the Gaussian that interpolates a mask between its pixels: less follows the pixels' corners, more
# blunts what is pointed.
SMOOTHING_PIXELS = 1.5
MARGIN = 7  # pixels around a mask that its Gaussian reaches
LEAST_VARIANCE = 1 / 12  # of the coordinates of a pixel's area


def find_contours(mask: NDArray[np.bool_]) -> Contours:
    """Find the outer contours of a mask (row, col) that is not empty, in pixels; pixel centers have whole coordinates.

    The mask is smoothed, and its contours are scaled so that their area has the mean and the covariance of the mask's
    pixels. Holes count as filled. Lines halfway between pixel centers make the longest diameter 0.3 to 0.5 pixels too
    long: of all the places where a shape ends between two centers, it picks those that were rounded outward.
    """
    mask = ndimage.binary_fill_holes(mask)
    smoothed = ndimage.gaussian_filter(np.pad(mask, MARGIN).astype(np.float64), SMOOTHING_PIXELS)
    lines = contour_generator(z=smoothed, line_type=LineType.Separate).lines(float(smoothed.max()) / 2)
    contours = [np.asarray(line)[:, ::-1] - MARGIN for line in lines]
    mean, covariance = find_moments(contours)
    pixels = np.argwhere(mask)
    scale = find_root(np.cov(pixels.T, bias=True), LEAST_VARIANCE) @ np.linalg.inv(find_root(covariance))
    return [(contour - mean) @ scale.T + pixels.mean(axis=0) for contour in contours]


def find_moments(contours: Contours) -> tuple[Floats, Floats]:
    """Compute the mean (2,) and the covariance (2, 2) of the area in contours, by Green's theorem."""
    starts, ends = (np.concatenate([contour[part] for contour in contours]) for part in (np.s_[:-1], np.s_[1:]))
    doubled = starts[:, 0] * ends[:, 1] - ends[:, 0] * starts[:, 1]  # area of the triangle of an edge and (0, 0)
    area = doubled.sum() / 2
    mean = doubled @ (starts + ends) / 6 / area
    weights = doubled / 24 / area
    sums = starts + ends
    square = (starts * weights[:, np.newaxis]).T @ starts + (ends * weights[:, np.newaxis]).T @ ends
    square += (sums * weights[:, np.newaxis]).T @ sums
    return mean, square - np.outer(mean, mean)


def find_root(covariance: Floats, least: float = 0.0) -> Floats:
    """Compute the square root of a covariance (2, 2), with variances of at least `least` in any direction."""
    variances, directions = np.linalg.eigh(covariance)
    root: Floats = directions * np.sqrt(np.maximum(variances, least)) @ directions.T
    return root


def find_longest(contours: Contours) -> Floats:
    """Find the two points of contours that are farthest apart: (2, 2)."""
    points = np.concatenate(contours)
    corners = points[ConvexHull(points).vertices]
    apart = np.linalg.norm(corners[:, np.newaxis] - corners, axis=-1)
    ends: Floats = corners[list(np.unravel_index(apart.argmax(), apart.shape))]
    return ends


def find_longest_across(contours: Contours, line: Floats) -> Floats:
    """Find the two points of contours that are farthest apart on a line perpendicular to another: (2, 2).

    Between the contours' points the distance changes linearly, so that perpendiculars through points are enough.
    """
    along = (line[1] - line[0]) / np.linalg.norm(line[1] - line[0])
    axes = np.stack([along, (-along[1], along[0])])  # along and across the line
    starts, ends = (
        np.concatenate([contour[part] @ axes.T for contour in contours]) for part in (np.s_[:-1], np.s_[1:])
    )
    places = np.unique(starts[:, 0])[:, np.newaxis]
    low, high = np.minimum(starts[:, 0], ends[:, 0]), np.maximum(starts[:, 0], ends[:, 0])
    is_crossed = (low <= places) & (places <= high)  # (place, edge)
    run = np.where(high > low, ends[:, 0] - starts[:, 0], 1)
    across = starts[:, 1] + (places - starts[:, 0]) / run * (ends[:, 1] - starts[:, 1])
    lowest = np.where(is_crossed, across, np.inf).min(axis=1)
    highest = np.where(is_crossed, across, -np.inf).max(axis=1)
    widest = (highest - lowest).argmax()
    ends_across: Floats = np.array([(places[widest, 0], lowest[widest]), (places[widest, 0], highest[widest])]) @ axes
    return ends_across
