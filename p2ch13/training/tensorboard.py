"""TensorBoard scalars and overlays of a run."""

from __future__ import annotations

import json
import textwrap
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from p2ch13.data.datasets import Luna2dSegmentationDataset
from p2ch13.detection.pictures import Image, Predictor, draw_overlay, encode_png, predict_slice
from p2ch13.evaluation.metrics import Scores
from p2ch13.training.provenance import get_commit, get_versions
from p2ch13.training.run import RunState
from p2ch13.training.run_files import runs_dir_of
from p2ch13.util.files import atomic_write
from p2ch13.util.threads import available_cores

OVERLAY_SERIES_COUNT = 12
OVERLAY_SLICE_COUNT = 6


class TensorBoardReport:
    """The curves and overlays of a run: a folder for training and one for validation, whose curves share the axes.

    Args:
        run_name, comment: the folders are `<run_name>_trn_seg_<comment>` and `<run_name>_val_seg_<comment>`.
        first_step: events of an interrupted run at this number of samples or later are hidden.
    """

    def __init__(self, folder: Path, run_name: str, comment: str, first_step: int = 1) -> None:
        self.folders = {mode: folder / f"{run_name}_{mode}_seg_{comment}" for mode in ("trn", "val")}
        self.writers = {
            mode: SummaryWriter(log_dir=str(path), purge_step=first_step) for mode, path in self.folders.items()
        }

    def log_settings(self, run: RunState) -> None:
        """Write the run's options, also as a config.json that `--config` reads, and its code and data."""
        options, code = run.config.as_dict(), {"versions": get_versions(), "commit": get_commit()}
        origin = code | {"data": run.data_fingerprint, "series": run.series}
        with atomic_write(self.folders["trn"] / "config.json") as file:
            file.write(as_json(options).encode())
        for name, values in {"options": options, "origin": origin}.items():
            self.writers["trn"].add_text(name, textwrap.indent(as_json(values), 4 * " "))  # code, in Markdown

    def log_scores(self, mode: str, scores: Scores, samples_count: int) -> None:
        """Write scalars under the book's names, over the number of training samples so far.

        In a validation `pr/...` are of slices that hold nodule, `pr_all/...` of all slices, if it has others.
        """
        values = {"loss/all": scores.loss}
        if scores.is_defined:
            values |= {
                "percent_all/tp": scores.tp_percent,
                "percent_all/fn": scores.fn_percent,
                "percent_all/fp": scores.fp_percent,
                **name_curves("pr", scores),
            }
        if scores.of_all is not None:
            values |= {**name_curves("pr_all", scores.of_all), "pr_all/slice_f1": scores.of_all.slice_f1}
        for name, value in values.items():
            self.writers[mode].add_scalar(name, value, samples_count)

    def log_learning_rate(self, learning_rate: float, samples_count: int) -> None:
        """Write the learning rate of an epoch's last step."""
        self.writers["trn"].add_scalar("learning_rate", learning_rate, samples_count)

    def log_overlays(
        self, mode: str, dataset: Luna2dSegmentationDataset, predict: Predictor, samples_count: int, with_labels: bool
    ) -> None:
        """Write overlays of 6 slices of each of the first 12 series; with labels, also of these alone."""
        writer = self.writers[mode]
        # Compressing an overlay takes as long as segmenting its slice.
        with ThreadPoolExecutor(available_cores()) as pool:
            written = []
            for series_ndx, series_uid in enumerate(dataset.series_list[:OVERLAY_SERIES_COUNT]):
                slices = choose_slices(*dataset.ct_cache.get_ct_sample_size(series_uid))
                for overlay_ndx, slice_ndx in enumerate(slices):
                    ct_slice, is_predicted, label = predict_slice(dataset, predict, series_uid, slice_ndx)
                    overlays = {"prediction": draw_overlay(ct_slice, is_predicted, label)}
                    if with_labels:
                        overlays["label"] = draw_overlay(ct_slice, label, label)
                    for name, overlay in overlays.items():
                        tag = f"{mode}/{series_ndx}_{name}_{overlay_ndx}"
                        written.append(pool.submit(add_png, writer, tag, overlay, samples_count))
        for future in written:
            future.result()
        writer.flush()

    def __enter__(self) -> TensorBoardReport:
        threading.excepthook = ignore_os_errors
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            for mode, writer in self.writers.items():
                with naming_os_errors(self.folders[mode]):
                    writer.close()
        finally:
            threading.excepthook = threading.__excepthook__


@contextmanager
def open_report(run: RunState, is_first: bool) -> Iterator[TensorBoardReport | None]:
    """Open a run's TensorBoard folders, in the first process; the others get None."""
    if not is_first:
        yield None
        return
    folder, first_step = runs_dir_of(run.config), run.count_samples(run.epoch) + 1
    with TensorBoardReport(folder, run.files.time_str, run.files.comment, first_step) as report:
        report.log_settings(run)
        yield report


def name_curves(group: str, scores: Scores) -> dict[str, float]:
    return {
        f"{group}/precision": scores.precision,
        f"{group}/recall": scores.recall,
        f"{group}/f1_score": scores.f1,
        f"{group}/dice": scores.dice,
    }


def add_png(writer: SummaryWriter, tag: str, overlay: Image, samples_count: int) -> None:
    """Do as `SummaryWriter.add_image`, but compress by `PNG_LEVEL`, which is faster."""
    height, width, channel_count = overlay.shape
    image = Summary.Image(
        height=height, width=width, colorspace=channel_count, encoded_image_string=encode_png(overlay)
    )
    summary = Summary(value=[Summary.Value(tag=tag, image=image)])
    writer.file_writer.add_summary(summary, samples_count)  # type: ignore[attr-defined]  # declared as None


def ignore_os_errors(error: threading.ExceptHookArgs) -> None:
    """Ignore a full disk's error in a writer's thread: the writer's next call raises it again."""
    if not issubclass(error.exc_type, OSError):
        threading.__excepthook__(error)


@contextmanager
def naming_os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def as_json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"


def choose_slices(slice_count: int, positive_indexes: Sequence[int], count: int = OVERLAY_SLICE_COUNT) -> list[int]:
    """Choose half of the slices among those with nodule, the others from the whole scan."""
    everywhere = spread(range(slice_count), count)
    with_nodule = spread(positive_indexes, count // 2)
    others = [ndx for ndx in everywhere if ndx not in with_nodule]
    return sorted([*with_nodule, *spread(others, count - len(with_nodule))])


def spread(values: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of the values, evenly spread from the first to the last."""
    if len(values) <= count:
        return list(values)
    return [values[ndx] for ndx in np.linspace(0, len(values) - 1, count).round().astype(int)]
