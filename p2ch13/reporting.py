"""What a person looks at: TensorBoard scalars and overlay pictures."""

from __future__ import annotations

import io
import json
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from p2ch13.datasets import Luna2dSegmentationDataset
from p2ch13.metrics import Scores
from util.files import write_whole
from util.threads import available_cores

PICTURE_SERIES_COUNT = 12
PICTURE_SLICE_COUNT = 6
LUNG_WINDOW_HU = (-1350.0, 150.0)  # black and white: level -600, width 1500
FOUND, MISSED, FALSE_ALARM = (0, 255, 0), (255, 128, 0), (255, 0, 0)  # green, orange, red
COLOUR_WEIGHT = 0.5
PNG_LEVEL = 3  # of compression; beyond it files hardly get smaller

Image = NDArray[np.uint8]  # (row, col, 3)
# (batch, 7, row, col) in HU -> (batch, 1, row, col), bool: is it nodule?
Predictor = Callable[[torch.Tensor], torch.Tensor]


class TensorBoardReport:
    """The curves and pictures of a run: one folder for training and one for validation, which TensorBoard overlays.

    Args:
        run_name, comment: the folders are `<run_name>_trn_seg_<comment>` and `<run_name>_val_seg_<comment>`.
        first_step: what an interrupted run has left there of this number of samples, or of more, is not shown.
    """

    def __init__(self, folder: Path, run_name: str, comment: str, first_step: int = 1) -> None:
        self.folders = {mode: folder / f"{run_name}_{mode}_seg_{comment}" for mode in ("trn", "val")}
        self.writers = {
            mode: SummaryWriter(log_dir=str(path), purge_step=first_step) for mode, path in self.folders.items()
        }

    def log_settings(self, options: dict[str, Any], origin: dict[str, Any]) -> None:
        """The run's options, also as a config.json that `--config` reads, and where it comes from; plain values."""
        with write_whole(self.folders["trn"] / "config.json") as file:
            file.write(as_json(options).encode())
        for name, values in {"options": options, "origin": origin}.items():
            self.writers["trn"].add_text(name, textwrap.indent(as_json(values), 4 * " "))  # code, in Markdown

    def log_scores(self, mode: str, scores: Scores, samples_count: int) -> None:
        """Scalars under the book's names, over the number of training samples seen so far.

        `pr/...` are of a validation's slices that hold nodule, `pr_all/...` of all its slices, if it has others.
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
        """The learning rate of an epoch's last step."""
        self.writers["trn"].add_scalar("learning_rate", learning_rate, samples_count)

    def log_pictures(
        self, mode: str, dataset: Luna2dSegmentationDataset, predict: Predictor, samples_count: int, with_labels: bool
    ) -> None:
        """Overlays of 6 slices of each of the first 12 series; with them, if asked for, the labels alone."""
        writer = self.writers[mode]
        # Compressing a picture takes as long as segmenting its slice.
        with ThreadPoolExecutor(available_cores()) as pool:
            written = []
            for series_ndx, series_uid in enumerate(dataset.series_list[:PICTURE_SERIES_COUNT]):
                slices = choose_slices(*dataset.ct_cache.get_ct_sample_size(series_uid))
                for picture_ndx, slice_ndx in enumerate(slices):
                    ct_slice, is_predicted, label = predict_slice(dataset, predict, series_uid, slice_ndx)
                    pictures = {"prediction": draw_overlay(ct_slice, is_predicted, label)}
                    if with_labels:
                        pictures["label"] = draw_overlay(ct_slice, label, label)
                    for name, picture in pictures.items():
                        tag = f"{mode}/{series_ndx}_{name}_{picture_ndx}"
                        written.append(pool.submit(add_png, writer, tag, picture, samples_count))
        for future in written:
            future.result()
        writer.flush()

    def __enter__(self) -> TensorBoardReport:
        threading.excepthook = leave_os_errors_to_the_caller
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            for mode, writer in self.writers.items():
                with naming_os_errors(self.folders[mode]):
                    writer.close()
        finally:
            threading.excepthook = threading.__excepthook__


def name_curves(group: str, scores: Scores) -> dict[str, float]:
    return {
        f"{group}/precision": scores.precision,
        f"{group}/recall": scores.recall,
        f"{group}/f1_score": scores.f1,
        f"{group}/dice": scores.dice,
    }


def add_png(writer: SummaryWriter, tag: str, picture: Image, samples_count: int) -> None:
    """What `SummaryWriter.add_image` does, but that it compresses by `PNG_LEVEL`, which takes less time."""
    height, width, channel_count = picture.shape
    image = Summary.Image(
        height=height, width=width, colorspace=channel_count, encoded_image_string=encode_png(picture)
    )
    summary = Summary(value=[Summary.Value(tag=tag, image=image)])
    writer.file_writer.add_summary(summary, samples_count)  # type: ignore[attr-defined]  # declared as None


def leave_os_errors_to_the_caller(error: threading.ExceptHookArgs) -> None:
    """A writer's thread raises what a full disk has told it, and so does the writer's next call: once is enough."""
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


def predict_slice(
    dataset: Luna2dSegmentationDataset, predict: Predictor, series_uid: str, slice_ndx: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """HU, prediction and label of a slice, each (row, col)."""
    hu, label, *_ = dataset.get_full_slice(series_uid, slice_ndx)
    return hu[len(hu) // 2].numpy(), predict(hu.unsqueeze(0))[0, 0].cpu().numpy(), label[0].numpy()


def choose_slices(slice_count: int, positive_indexes: Sequence[int], count: int = PICTURE_SLICE_COUNT) -> list[int]:
    """Every other one of the slices with nodule, so that there is something to find, the rest from the whole scan."""
    everywhere = spread(range(slice_count), count)
    with_nodule = spread(positive_indexes, count // 2)
    others = [ndx for ndx in everywhere if ndx not in with_nodule]
    return sorted([*with_nodule, *spread(others, count - len(with_nodule))])


def spread(values: Sequence[int], count: int) -> list[int]:
    """At most `count` of the values, evenly spread from the first to the last."""
    if len(values) <= count:
        return list(values)
    return [values[ndx] for ndx in np.linspace(0, len(values) - 1, count).round().astype(int)]


def draw_overlay(hu: NDArray[Any], is_predicted: NDArray[np.bool_], label: NDArray[np.bool_]) -> Image:
    """A slice in a lung window: green is nodule that was found, orange was missed, red is a false alarm.

    Args: hu, prediction and label of the slice, each (row, col).
    """
    black, white = LUNG_WINDOW_HU
    grey = ((hu - black) * (255 / (white - black))).clip(0, 255).round().astype(np.uint8)
    picture = np.repeat(grey[..., np.newaxis], 3, axis=2)
    for colour, where in (
        (FOUND, is_predicted & label),
        (MISSED, ~is_predicted & label),
        (FALSE_ALARM, is_predicted & ~label),
    ):
        picture[where] = ((1 - COLOUR_WEIGHT) * picture[where] + COLOUR_WEIGHT * np.array(colour)).round()
    return picture


def draw_findings(dataset: Luna2dSegmentationDataset, predict: Predictor, series_count: int = 4) -> Image:
    """The largest nodule of each of the first series that have one, a row each.

    A row shows the slice through the nodule's centre with its overlay, then the nodule alone, enlarged, as the scanner
    saw it and with its overlay.
    """
    rows = []
    for series_uid in [uid for uid in dataset.series_list if dataset.ct_cache.nodules[uid]][:series_count]:
        ct = dataset.ct_cache.get_ct(series_uid)
        center = ct.locate(dataset.ct_cache.nodules[series_uid][0].center_xyz)
        ct_slice, is_predicted, label = predict_slice(dataset, predict, series_uid, center.index)
        overlay = draw_overlay(ct_slice, is_predicted, label)
        rows.append([overlay, *draw_enlarged(ct_slice, overlay, center.row, center.col)])
    return stack(rows)


def draw_nodules(hu: NDArray[np.int16], labels: NDArray[np.int32], numbers: Sequence[int]) -> Image:
    """What was found in a scan of which no labels are known: a row for each nodule, as in `draw_findings`, all green.

    Args:
        hu, labels: (index, row, col), axial slices with rows to the back, such as `to_axial` gives.
        numbers: the nodules' values in `labels`; of each the slice that has most of it. Without any, the middle slice.
    """
    rows = []
    for number in numbers:
        is_nodule = labels == number
        index = int(is_nodule.sum(axis=(1, 2)).argmax())
        row, col = (round(float(axis.mean())) for axis in np.nonzero(is_nodule[index]))
        overlay = draw_overlay(hu[index], labels[index] > 0, labels[index] > 0)
        rows.append([overlay, *draw_enlarged(hu[index], overlay, row, col)])
    if not rows:
        middle = len(hu) // 2
        rows = [[draw_overlay(hu[middle], labels[middle] > 0, labels[middle] > 0)]]
    return stack(rows)


def draw_enlarged(ct_slice: NDArray[Any], overlay: Image, row: int, col: int) -> list[Image]:
    """The surroundings of a place, as the scanner saw them and with their overlay."""
    nothing = np.zeros(ct_slice.shape, dtype=bool)
    return [enlarge(picture, row, col) for picture in (draw_overlay(ct_slice, nothing, nothing), overlay)]


def stack(rows: Sequence[Sequence[Image]]) -> Image:
    """Pictures side by side in rows, each with as much room as the largest."""
    height = max(picture.shape[0] for row in rows for picture in row)
    width = max(picture.shape[1] for row in rows for picture in row)
    return np.concatenate(
        [np.concatenate([fit(picture, height, width) for picture in row], axis=1) for row in rows], axis=0
    )


def enlarge(picture: Image, row: int, col: int, size: int = 128, factor: int = 4) -> Image:
    """The `size` x `size` pixels around a place, black beyond the picture's edge, each as a square of `factor`."""
    padded = np.pad(picture, ((size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    return padded[row : row + size, col : col + size].repeat(factor, axis=0).repeat(factor, axis=1)


def fit(picture: Image, height: int, width: int) -> Image:
    """Black below and to the right, up to a size."""
    return np.pad(picture, ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0)))


def encode_png(picture: Image) -> bytes:
    file = io.BytesIO()
    PillowImage.fromarray(picture).save(file, format="PNG", compress_level=PNG_LEVEL)
    return file.getvalue()


def write_png(path: Path, picture: Image) -> None:
    """Write a picture; it appears under its name only when it is complete."""
    with write_whole(path) as file:
        file.write(encode_png(picture))
