"""Sentences of a report: what was found, and what the networks cannot know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from p2ch13.config import MAX_DIAMETER_MM
from p2ch13.data.ct import Ct
from p2ch13.detection.search_facts import SearchFacts

INTENDED_USE = "Research use only. This is no medical device, and no clinical decision may rest on it."
COORDINATES = (
    "Positions are in mm, in LPS patient coordinates: x grows to the patient's left, y to the back, z to the head. "
    "3D Slicer displays RAS: the same point has the opposite sign of x and y there."
)
SLICES = "Slices are axial and counted from the feet, from 0, however the scan is stored."
MAX_SLICE_MM = 5.0  # of the thickest slices that the network is made for


def show_probability(probability: float) -> str:
    """Format a probability in two decimals; neither 0 nor 1, which none is."""
    if probability >= 0.995:
        return "above 0.99"
    return "below 0.01" if probability < 0.005 else f"{probability:.2f}"


def show_side(side: str | None) -> str:
    return "side not determined" if side is None else f"{side} lung"


def show_slices(first: int, last: int) -> str:
    return f"slice {first}" if first == last else f"slices {first} to {last}"


def summarize(findings: Sequence[Mapping[str, Any]], facts: SearchFacts) -> str:
    """Say what was found, where, how large and how sure. Args: findings: as in the report, most probable first."""
    shown = f"a probability of {facts.threshold:.3g} or more"
    if not findings:
        return f"No findings with {shown}. This does not mean that there are no nodules."
    first = findings[0]
    count = "1 finding" if len(findings) == 1 else f"{len(findings)} findings"
    which = "It lies" if len(findings) == 1 else "The most probable, finding 1, lies"
    at = f"{show_side(first['side'])}, {show_slices(first['first_slice'], first['last_slice'])}"
    size = f"{first['longest_diameter_mm']:.1f} x {first['perpendicular_diameter_mm']:.1f} mm"
    sure = f"a probability of {show_probability(first['probability'])}"
    text = f"{count} with {shown}. {which} in the {at}, measures {size} ({first['kind']}), and has {sure}."
    text = text.replace("in the side not determined,", "on a side that was not determined, in")
    largest = max(findings, key=lambda finding: finding["mean_diameter_mm"])
    if largest is not first:
        text += (
            f" The largest is finding {largest['number']}, of {largest['longest_diameter_mm']:.1f} x "
            f"{largest['perpendicular_diameter_mm']:.1f} mm, with a probability of "
            f"{show_probability(largest['probability'])}."
        )
    return text


def explain_probability(facts: SearchFacts) -> str:
    """Say what the probabilities of findings mean."""
    if facts.is_calibrated:
        return (
            "Probabilities are calibrated on validation scans: of findings at 0.7, about 70% are nodules in scans like "
            "those. In a population with fewer nodules the same number means less."
        )
    return "Probabilities are the first stage's own and not calibrated: they rank findings, and say little more."


def list_limits(ct: Ct, findings: Sequence[Mapping[str, Any]], facts: SearchFacts) -> list[str]:
    """List what the networks cannot know, of any scan and of this one."""
    return [*list_limits_of_scan(ct, findings, facts), *list_limits_of_search(facts), *LIMITS_OF_ANY_SCAN]


LIMITS_OF_ANY_SCAN = (
    "It does not tell benign from malignant. Size categories compare sizes with published borders; they are no advice.",
    "It sees this scan alone: no earlier scan, no growth, no symptoms, no history.",
    "Borders of ground glass, and where a nodule meets a vessel or the pleura, are uncertain, and so are sizes there.",
)


def list_limits_of_scan(ct: Ct, findings: Sequence[Mapping[str, Any]], facts: SearchFacts) -> list[str]:
    slice_mm, limits = ct.vx_size_xyz[2], []
    if facts.lung_mask and ct.lungs is None:
        limits.append("No lungs were recognized, so the whole scan was searched. Is it a chest CT?")
    if ct.lungs is not None:
        for end, name, beyond in ((0, "lowest", "below"), (-1, "highest", "above")):
            if ct.lungs[end].any():
                limits.append(f"The lungs reach the scan's {name} slice: what lies {beyond} it was not seen.")
    if slice_mm > MAX_SLICE_MM:
        limits.append(
            f"Slices are {slice_mm:.3g} mm apart, more than the {MAX_SLICE_MM:g} mm that the network is made for: "
            "small nodules can lie between them."
        )
    too_large = [str(finding["number"]) for finding in findings if finding["is_larger_than_made_for"]]
    if too_large:
        limits.append(
            f"Larger than the {MAX_DIAMETER_MM:g} mm that the network is made for: finding {', '.join(too_large)}. "
            "Only parts of it may be marked."
        )
    return limits


def list_limits_of_search(facts: SearchFacts) -> list[str]:
    limits = []
    if facts.validation is not None:
        missed = 1 - facts.validation.sensitivity_at(facts.threshold)
        limits.append(
            f"Nodules can be missing from this list: at its threshold, {missed:.0%} of {len(facts.validation.nodules)} "
            f"nodules in {facts.validation.scan_count} validation scans were missed, and "
            f"{facts.validation.false_positives_at(facts.threshold):.2g} findings per scan were not nodules."
        )
    else:
        limits.append("Nodules can be missing from this list, and findings can be vessels, scars or other tissue.")
    limits.append(
        f"Findings under {facts.min_diameter_mm:g} mm (as a sphere of their volume) are left out, and masses over "
        f"{MAX_DIAMETER_MM:g} mm are outside of what the network is made for."
    )
    if facts.lung_mask:
        limits.append("Only the lungs and what touches them were searched: no mediastinum, no chest wall, no abdomen.")
    limits += [f"{card.name or name}: {card.limits}." for name, card in facts.cards if card and card.limits]
    if any(card is None for _, card in facts.cards):
        limits.append(
            "A checkpoint without a model card was used: what it was trained on and made for is unknown here."
        )
    return limits
