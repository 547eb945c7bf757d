"""Score files: the names and the content that SegmentMeIfYouCan's public tool opens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_evaluation_readers import fishyscapes_lost_and_found, lost_and_found, smiyc, streethazards

from mgcda_core.config import EvaluationSet
from mgcda_core.evaluation.evaluate import judge
from mgcda_core.evaluation.protocols import Judging
from mgcda_core.evaluation.scored import Method
from mgcda_core.evaluation.scorers import Scorer
from mgcda_core.evaluation.smiyc_files import method_name

h5py = pytest.importorskip("h5py")
FRAME = "04_Maurener_Weg_8_000000_000030"


def written(chosen: EvaluationSet, out: Path) -> dict[str, np.ndarray]:
    """Path below `out` -> array, opened as the public tool does it."""
    ramp = np.linspace(-3, 1e6, 8 * 12, dtype=np.float32).reshape(8, 12)
    scorer = Scorer(lambda image: ramp, lambda image: image[..., 0], False, "logits")
    judge(chosen, Method("runs/a,b/w.safetensors", "maxlogit", scorer, "00"), Judging("smiyc", scores=out))
    found = {}
    for path in out.rglob("*.*"):
        with h5py.File(path, "r") as file:
            assert file["value"].compression_opts == 9
            found[str(path.relative_to(out))] = file["value"][:]
    return found


def test_the_tracks_have_the_names_of_the_benchmark(tmp_path: Path) -> None:
    smiyc(tmp_path, "Anomaly", "validation0001.jpg", [0, 1, 255])
    smiyc(tmp_path, "Obstacle", "validation_1.webp", [0, 1, 255])
    for track in ("Anomaly", "Obstacle"):
        chosen = EvaluationSet("x", dataset=f"smiyc_{track.lower()}", root=str(tmp_path))
        ((name, score),) = written(chosen, tmp_path / track).items()
        stem = {"Anomaly": "validation0001", "Obstacle": "validation_1"}[track]
        assert name == f"anomaly_p/runs-a-b-w-maxlogit/{track}Track-all/{stem}.hdf5"
        assert (score.dtype, score.shape, score[0, 0]) == (np.float16, (8, 12), -3)
        assert score[-1, -1] == np.finfo(np.float16).max  # not inf


def test_lost_and_found_is_stored_by_its_split(tmp_path: Path) -> None:
    lost_and_found(tmp_path, [1, 2], "train")
    chosen = EvaluationSet("x", dataset="lost_and_found", root=str(tmp_path), split="train")
    assert [*written(chosen, tmp_path / "o")] == [f"anomaly_p/runs-a-b-w-maxlogit/LostAndFound-train/{FRAME}.hdf5"]
    fishyscapes_lost_and_found(tmp_path / "fs", [0, 1])
    fishyscapes = EvaluationSet("x", dataset="fishyscapes_lost_and_found", root=str(tmp_path / "fs"))
    assert [*written(fishyscapes, tmp_path / "p")] == [f"anomaly_p/runs-a-b-w-maxlogit/LostAndFound-test/{FRAME}.hdf5"]


def test_frames_of_one_name_in_two_folders_keep_apart(tmp_path: Path) -> None:
    for town in ("t5", "t6"):
        streethazards(tmp_path, [1, 14], town)
    chosen = EvaluationSet("../evil", dataset="streethazards", root=str(tmp_path))
    folder = "anomaly_p/runs-a-b-w-maxlogit/evil"
    assert sorted(written(chosen, tmp_path / "o")) == [f"{folder}/t5_300.hdf5", f"{folder}/t6_300.hdf5"]


def test_other_sets_go_by_their_own_name(drive: Path) -> None:
    chosen = EvaluationSet("mine", str(drive / "images"), str(drive / "masks"), (2,))
    ramp = Scorer(lambda image: image[..., 0].astype(np.float32), lambda image: image[..., 0], True, "logits")
    judge(chosen, Method("lite", "model", ramp, "00"), Judging("smiyc", scores=drive / "out"))
    assert sorted(p.stem for p in (drive / "out/anomaly_p/lite-model/mine").iterdir()) == ["f0", "f1", "f2", "f3"]


def test_a_method_name_is_a_folder_and_no_list() -> None:
    assert method_name("lite", "model") == "lite-model"
    assert method_name("../a,b/w.safetensors", "sml") == "a-b-w-sml"
