"""`python -m stress.kills` would notice a loss; that there is none shows `python -m stress --short`."""

import pytest
import torch

from p2ch13.network.checkpoint import save_checkpoint
from stress import commands, kills
from stress.report import LostError


def test_what_is_lost_is_noticed(tmp_path):
    weights = {"w": torch.tensor([1.0])}
    state = {"model_state": weights, "trained_state": weights, "epoch": 1, "best_score": 0.5}
    state["totalTrainingSamples_count"] = 9
    path = tmp_path / "p2ch13" / "seg_now_none.last.state"
    save_checkpoint(path, state)
    kills.compare_states(tmp_path, state)
    for change in ({"epoch": 2}, {"trained_state": {"w": torch.tensor([1.0000001])}}):
        with pytest.raises(LostError):
            kills.compare_states(tmp_path, {**state, **change})
    (path.parent / ".host.1.tmp.x").touch()
    with pytest.raises(LostError, match="unfinished files"):
        kills.compare_states(tmp_path, state)
    with pytest.raises(LostError, match="a cached value differs"):
        commands.compare_values({"key": [1, 2]}, {"key": [1, 3]})
