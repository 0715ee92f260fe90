"""Find the lung nodules of whole scans."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from p2ch13.commands import spell
from p2ch13.config import PredictOptions, parse
from p2ch13.network.latest import choose_checkpoints
from p2ch13.util.errors import run_command
from p2ch13.util.logconf import set_up_logging
from p2ch13.util.process_rank import ProcessRank
from p2ch13.weights import WEIGHTS

if TYPE_CHECKING:
    from p2ch13.detection.prediction import Prediction, ScanLike


def main(sys_argv: Sequence[str] | None = None, weights: Path = WEIGHTS) -> int:
    """Predict as a command line says.

    Args: weights: the .state file that is used without --checkpoint.
    Raises: SystemExit for --help and a mistyped option, else see `predict`.
    """
    options = parse(PredictOptions, spell("predict"), __doc__, sys_argv)
    options = replace(options, checkpoint=choose_checkpoints(options.checkpoint, weights))
    from p2ch13.detection.pipeline import predict  # imports torch, which takes seconds

    process = ProcessRank.from_environment()
    set_up_logging(process.is_first, to_stderr=options.json)
    outcome = predict(options, process)
    return outcome.finish(options.json) if process.is_first else outcome.status


class CallableModule(ModuleType):
    """This module as a function: `p2ch13.predict("scan.nii.gz")`.

    Python sets the name `predict` of the package to this module once it is imported, as the command line does. A
    function of that name would be gone then, so the module can be called itself.
    """

    def __call__(self, scan: ScanLike, *, show_progress: bool = False, **options: Any) -> Prediction:
        """Find the nodules of one scan: a path, a SimpleITK image, a nibabel image or a `Ct`.

        The options are those of the command that concern the search, such as `checkpoint="model.state"`,
        `threshold="sensitive"`, `second_stage=False`, `device="cuda"`: see `p2ch13.detection.prediction.predict`.
        Jupyter shows what is returned as a picture; it has `findings`, `mask`, `figure` and more, see
        `help(p2ch13.Prediction)`.
        """
        from p2ch13.detection.prediction import predict

        return predict(scan, show_progress=show_progress, **options)


sys.modules[__name__].__class__ = CallableModule

if __name__ == "__main__":
    run_command(main)
