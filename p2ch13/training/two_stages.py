"""From a network of training to a file of both stages: candidates of its scans, training, calibration, card."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from p2ch13.commands import spell
from p2ch13.config import SecondStageOptions
from p2ch13.data.ct import Ct
from p2ch13.data.index import ScanIndex
from p2ch13.detection.segment import LOWEST_THRESHOLD, load_segmenter, segment
from p2ch13.labels.candidates import CandidateInfoTuple
from p2ch13.network.card import TRAINED_SERIES, read_trained_series
from p2ch13.network.checkpoint import PIXEL_MM, load_checkpoint, save_checkpoint
from p2ch13.network.compute import Compute, choose_threads, get_device, get_dtype, keep_freed_memory
from p2ch13.network.finding_scorer import DEFAULT, SECOND_STAGE, FindingScorer
from p2ch13.network.model import SegmentationNetwork
from p2ch13.training.backgrounds import Background, read_backgrounds
from p2ch13.training.finding_examples import Examples, collect_examples
from p2ch13.training.painted_scans import count_nodules, draw_sizes, paint_scan
from p2ch13.training.painter import Painter
from p2ch13.training.resume import read_saved_config
from p2ch13.training.second_stage import build_scorer
from p2ch13.training.shapes import find_donors, find_shapes
from p2ch13.util.errors import InputError
from p2ch13.util.files import make_writable_folder
from p2ch13.util.outcome import Outcome
from p2ch13.util.progress import progress_bar

log = logging.getLogger(__name__)

SIZES_MM = (3.0, 35.0)  # of painted nodules
VIEWS = 2  # cubes of each candidate
KEPT_KEYS = ("model_state", "model_name", "network", "model_args", "config", "versions", "commit", "splits", "series")
LIMITS = (
    "nodules of 3 to 35 mm in chest CT of adults with slices of up to 5 mm; research use only, no diagnosis; not "
    "tested on children, after surgery, in collapsed or fibrotic lungs"
)


class LabeledScan(NamedTuple):
    """A scan whose nodules are known, and that is not opened yet but for its voxels."""

    ct: Ct
    nodules: list[CandidateInfoTuple]
    mask: np.ndarray[Any, np.dtype[np.bool_]]  # (index, row, col)
    ignored: list[CandidateInfoTuple]  # neither nodules nor false positives
    group: int  # the same for all scans of a patient or lung


def add_second_stage(options: SecondStageOptions) -> Outcome:
    """Train, calibrate and write. Raises: InputError for files or folders that cannot be used."""
    keep_freed_memory()
    state = load_checkpoint(options.checkpoint)
    device = get_device(options.device)
    model = load_segmenter(options.checkpoint, device=device)
    earlier = read_trained_series(options.checkpoint, state)
    check_output(options)
    index = ScanIndex(options.data_dir, read_saved_config(options.checkpoint, state).label_options)
    series_list = spread_over(index.series_list, options.scans)
    backgrounds: list[Background] = []
    if options.backgrounds is not None:
        backgrounds = read_backgrounds(
            options.backgrounds, options.cache_dir, model.slice_spacing_mm, options.left_out_background, thickened=True
        )
    shapes = find_shapes(options.nodule_shapes) if backgrounds else []
    examples = find_examples(index, series_list, backgrounds, Painter(shapes), model, options)
    compute = Compute(device, get_dtype(options.precision, device))
    threads = choose_threads(options.threads, device)
    training = (options.candidate_threshold, options.steps, options.seed, compute, threads)
    scorer = build_scorer(examples, *training, real_count=options.copies * len(backgrounds))
    names = list(dict.fromkeys(background.series_uid for background in backgrounds))
    content = as_state(state, earlier, scorer, series_list, names, find_donors(shapes))
    save_checkpoint(options.output, {**content, PIXEL_MM: options.pixel_mm})
    return conclude(options, examples, scorer)


def conclude(options: SecondStageOptions, examples: Examples, scorer: FindingScorer) -> Outcome:
    """Say how well findings are scored in validation, and where the file is."""
    points = {
        name: {
            "probability": point,
            "sensitivity": scorer.validation.sensitivity_at(point),
            "false_positives_per_scan": scorer.validation.false_positives_at(point),
        }
        for name, point in scorer.operating_points.items()
    }
    shown = points[DEFAULT]
    lines = [
        f"In cross-validation on {scorer.validation.scan_count} scans, {shown['sensitivity']:.0%} of "
        f"{len(scorer.validation.nodules)} nodules are found with {shown['false_positives_per_scan']:.2f} false "
        f"positives a scan, at a probability of {shown['probability']:.3f}.",
        f"Network of both stages: {options.output}",
        f"Next: {spell('predict', '--checkpoint', str(options.output))} SCAN",
    ]
    candidates = {"candidates": len(examples), "nodules": int(np.count_nonzero(examples.is_nodule))}
    return Outcome(lines, {"file": options.output, **candidates, "operating_points": points})


def check_output(options: SecondStageOptions) -> None:
    """Check where the file will be written, before hours of work depend on it. Raises: InputError."""
    output = options.output
    if output.is_dir() or (output.exists() and output.samefile(options.checkpoint)):
        what = "a folder" if output.is_dir() else "also the --checkpoint"
        raise InputError(f"{what}; name another file", path=output, option="--output")
    make_writable_folder(output.parent, "--output")


def spread_over(series_list: Sequence[str], count: int | None) -> list[str]:
    """Choose so many series, evenly spread; all, if there are not more or the count is None."""
    if count is None or count >= len(series_list):
        return list(series_list)
    return [series_list[ndx * len(series_list) // count] for ndx in range(count)]


def find_examples(
    index: ScanIndex,
    series_list: Sequence[str],
    backgrounds: list[Background],
    painter: Painter,
    model: SegmentationNetwork,
    options: SecondStageOptions,
) -> Examples:
    """Search all scans for candidates. Raises: InputError if there are none, and see `Examples`."""
    rng = np.random.default_rng(options.seed)
    threads = choose_threads(options.threads, model.device)
    threshold = options.candidate_threshold
    lowest = min(threshold, LOWEST_THRESHOLD)
    examples = Examples(options.cache_dir)
    count = len(series_list) + options.copies * len(backgrounds)
    with progress_bar(count, "Finding candidates", "scan") as bar:
        for scan in list_scans(index, series_list, backgrounds, painter, options.copies, rng):
            logits = segment(
                scan.ct,
                model,
                pixel_mm=options.pixel_mm,
                precision=options.precision,
                lowest_threshold=lowest,
                threads=threads,
            )
            found = (scan.ct, logits, scan.nodules, scan.mask, scan.ignored)
            examples.add(*collect_examples(*found, threshold, VIEWS, rng), scan.group)
            bar.update()
    if not len(examples):
        message = f"the first stage finds no candidate in {count} scans; lower it, or train the first stage longer"
        raise InputError(message, option="--candidate-threshold")
    log.info(
        f"{count} scans: {len(examples)} candidates, {np.count_nonzero(examples.is_nodule)} of them nodules; "
        f"{sum(scan.missed_count for scan in examples.scans)} nodules without a candidate"
    )
    return examples


def list_scans(
    index: ScanIndex,
    series_list: Sequence[str],
    backgrounds: list[Background],
    painter: Painter,
    copies: int,
    rng: np.random.Generator,
) -> Iterator[LabeledScan]:
    """Yield the chosen scans of the data folder, then so many copies of each background, with new nodules each time."""
    patients = list(dict.fromkeys(index.patients[series_uid] for series_uid in series_list))
    group_of = {patient: ndx for ndx, patient in enumerate(patients)}
    for series_uid in series_list:
        ct, group = index.get_ct(series_uid), group_of[index.patients[series_uid]]
        yield LabeledScan(ct, index.nodules[series_uid], ct.positive_mask, index.excluded[series_uid], group)
    lungs = list(dict.fromkeys(background.series_uid for background in backgrounds))
    for background in backgrounds:
        group = len(patients) + lungs.index(background.series_uid)
        for _ in range(copies):
            painted = paint_scan(background, painter, rng, draw_sizes(rng, SIZES_MM, count_nodules(background)))
            ct = background.volume.with_hu(painted.hu)
            yield LabeledScan(ct, painted.nodules, painted.mask, background.lesions, group)


def as_state(
    first_stage: Mapping[str, Any],
    earlier: Collection[str],
    scorer: FindingScorer,
    series_list: list[str],
    backgrounds: list[str],
    donors: list[str],
) -> dict[str, Any]:
    """Return the content of the file of both stages: of the first one's what prediction and evaluation read.

    Args: earlier: series that the first stage was trained on; those that chose its best model count, too.
    """
    trained = {*earlier, *first_stage.get("series", {}).get("val", []), *series_list, *backgrounds, *donors}
    shape_donors = sorted({*first_stage.get("shape_donors", []), *donors})
    point = scorer.operating_points[DEFAULT]
    return {
        **{key: first_stage[key] for key in KEPT_KEYS if key in first_stage},
        SECOND_STAGE: scorer.as_state(),
        "shape_donors": shape_donors,
        TRAINED_SERIES: sorted(trained | set(shape_donors)),
        "card": {
            "name": "p2ch13 lung nodules",
            "trained_on": f"{len(series_list)} annotated scans and {len(backgrounds)} lungs with painted nodules",
            "limits": LIMITS,
            "operating_point": (
                f"a probability of {point:.2f}: {scorer.validation.sensitivity_at(point):.0%} of nodules at "
                f"{scorer.validation.false_positives_at(point):.1f} false positives a scan in validation"
            ),
        },
    }
