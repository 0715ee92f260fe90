"""TensorBoard scalars and overlays of a run."""

from __future__ import annotations

import json
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from p2ch13.data.datasets import Luna2dSegmentationDataset
from p2ch13.data.splits import SPLITS_FILE, write_splits
from p2ch13.detection.colors import ANNOTATED, COMPARED, explain
from p2ch13.detection.pictures import (
    Image,
    Predictor,
    blend,
    draw_gray,
    draw_overlay,
    encode_png,
    predict_slice,
    write_caption,
)
from p2ch13.evaluation.metrics import Scores
from p2ch13.training.provenance import get_commit, get_versions
from p2ch13.training.run import RunState
from p2ch13.training.run_files import runs_dir_of
from p2ch13.util.files import atomic_write
from p2ch13.util.progress import BAR_DELAY_S, progress_bar
from p2ch13.util.threads import available_cores

LOSS_WITHIN_EPOCH = "loss/within_epoch"
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
        """Write the run's options, code and data, also as files that `--config` and `--splits` read."""
        options, code = run.config.as_dict(), {"versions": get_versions(), "commit": get_commit()}
        origin = code | {"data": run.data_fingerprint, "series": run.all_series}
        write_splits(self.folders["trn"] / SPLITS_FILE, run.splits)
        with atomic_write(self.folders["trn"] / "config.json") as file:
            file.write(as_json(options).encode())
        for name, values in {"options": options, "origin": origin}.items():
            self.writers["trn"].add_text(name, textwrap.indent(as_json(values), 4 * " "))  # code, in Markdown

    def log_scores(self, mode: str, scores: Scores, samples_count: int, learning_rate: float | None = None) -> None:
        """Write scalars under the book's names, over the number of training samples so far.

        In a validation `pr/...` are of slices that hold nodule, `pr_all/...` of all slices, if it has others. The
        learning rate is that of an epoch's last step.
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
        if learning_rate is not None:
            values["learning_rate"] = learning_rate
        for name, value in values.items():
            self.writers[mode].add_scalar(name, value, samples_count)

    def log_loss(self, loss: float, samples_count: int) -> None:
        """Write a point of the loss within an epoch, over the number of training samples so far."""
        self.writers["trn"].add_scalar(LOSS_WITHIN_EPOCH, loss, samples_count)

    def log_images(
        self,
        datasets: Mapping[str, Luna2dSegmentationDataset],
        predict: Predictor,
        samples_count: int,
        with_labels: bool,
    ) -> None:
        """Write overlays of the datasets of both modes, see `draw_overlays`."""
        # Compressing an overlay takes as long as segmenting its slice.
        with ThreadPoolExecutor(available_cores()) as pool:
            written = [
                pool.submit(add_png, self.writers[mode], f"{mode}/{name}", overlay, samples_count)
                for mode, name, overlay in draw_all(datasets, predict, with_labels)
            ]
        for future in written:
            future.result()
        for writer in self.writers.values():
            writer.flush()

    def __enter__(self) -> TensorBoardReport:
        return self

    def __exit__(self, *exception: object) -> None:
        for mode, writer in self.writers.items():
            try:
                writer.close()
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self.folders[mode])) from None


@contextmanager
def open_report(run: RunState, is_first: bool) -> Iterator[TensorBoardReport | None]:
    """Open a run's TensorBoard folders, in the first process; the others get None."""
    if not is_first:
        yield None
        return
    # A finished epoch's events are kept. In the middle of one, those at the last saved step will be written again.
    first_step = run.count_samples(run.epoch, run.step) + (run.step == 0)
    folder = runs_dir_of(run.config)
    files = (folder, run.files.time_str, run.files.comment)
    with os_errors_of_threads_ignored(), TensorBoardReport(*files, first_step) as report:
        report.log_settings(run)
        yield report


def name_curves(group: str, scores: Scores) -> dict[str, float]:
    return {
        f"{group}/precision": scores.precision,
        f"{group}/recall": scores.recall,
        f"{group}/f1_score": scores.f1,
        f"{group}/dice": scores.dice,
    }


def draw_all(
    datasets: Mapping[str, Luna2dSegmentationDataset], predict: Predictor, with_labels: bool
) -> Iterator[tuple[str, str, Image]]:
    """Yield the datasets' modes, and names and overlays, see `draw_overlays`."""
    count = sum(min(len(dataset.series_list), OVERLAY_SERIES_COUNT) for dataset in datasets.values())
    with progress_bar(count, "Drawing slices for TensorBoard", "series", delay_s=BAR_DELAY_S) as bar:
        for mode, dataset in datasets.items():
            for name, overlay in draw_overlays(dataset, predict, with_labels, bar.update):
                yield mode, name, overlay


def draw_overlays(
    dataset: Luna2dSegmentationDataset, predict: Predictor, with_labels: bool, after_series: Callable[[], object]
) -> Iterator[tuple[str, Image]]:
    """Yield names and overlays of 6 slices of each of the first 12 series; with labels, also of these alone.

    A caption says which slice of which series an overlay shows, and what its colors mean.
    """
    for series_ndx, series_uid in enumerate(dataset.series_list[:OVERLAY_SERIES_COUNT]):
        slice_count, positive_indexes = dataset.ct_cache.get_ct_sample_size(series_uid)
        for ndx, slice_ndx in enumerate(choose_slices(slice_count, positive_indexes)):
            ct_slice, is_predicted, label = predict_slice(dataset, predict, series_uid, slice_ndx)
            place = f"series {series_uid}, slice {slice_ndx} of 0 to {slice_count - 1}"
            overlay = draw_overlay(ct_slice, is_predicted, label)
            yield f"{series_ndx}_prediction_{ndx}", write_caption(overlay, f"{place}. {explain(*COMPARED)}")
            if with_labels:
                yield (
                    f"{series_ndx}_label_{ndx}",
                    write_caption(draw_label(ct_slice, label), f"{place}. {explain(ANNOTATED)}"),
                )
        after_series()


def draw_label(hu: NDArray[Any], label: NDArray[np.bool_]) -> Image:
    """Draw the annotated nodules of a slice; both (row, col)."""
    image = draw_gray(hu)
    blend(image, label, ANNOTATED)
    return image


def add_png(writer: SummaryWriter, tag: str, overlay: Image, samples_count: int) -> None:
    """Do as `SummaryWriter.add_image`, but compress by `PNG_LEVEL`, which is faster."""
    height, width, channel_count = overlay.shape
    image = Summary.Image(
        height=height, width=width, colorspace=channel_count, encoded_image_string=encode_png(overlay)
    )
    summary = Summary(value=[Summary.Value(tag=tag, image=image)])
    writer.file_writer.add_summary(summary, samples_count)  # type: ignore[attr-defined]  # declared as None


@contextmanager
def os_errors_of_threads_ignored() -> Iterator[None]:
    """Ignore a full disk's error in a writer's thread, which begins with the writer: its next call raises it again."""

    def ignore(error: threading.ExceptHookArgs) -> None:
        if not issubclass(error.exc_type, OSError):
            threading.__excepthook__(error)

    threading.excepthook = ignore
    try:
        yield
    finally:
        threading.excepthook = threading.__excepthook__


def as_json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"


def choose_slices(slice_count: int, positive_indexes: Sequence[int]) -> list[int]:
    """Choose half of the slices among those with nodule, the others from the whole scan."""
    with_nodule = spread(positive_indexes, OVERLAY_SLICE_COUNT // 2)
    others = [ndx for ndx in spread(range(slice_count), OVERLAY_SLICE_COUNT) if ndx not in with_nodule]
    return sorted([*with_nodule, *spread(others, OVERLAY_SLICE_COUNT - len(with_nodule))])


def spread(values: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of the values, evenly spread from the first to the last."""
    ndxs = np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)
    return [values[ndx] for ndx in ndxs]
