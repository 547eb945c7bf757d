"""`mgcda import synboost` on an archive of the networks the golden recordings were made with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden_rule import GOLDEN, recorded_keys, rule
from synboost_archive import FOLDERS, write_archive
from torch import Tensor

from mgcda_core import cli
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter
from mgcda_core.models.loading import load_strict
from mgcda_core.weights.resolve import load_weights


def made(network: str, gains: str) -> dict[str, Tensor]:
    return rule.synthetic_state_dict(recorded_keys()[network], "public", rule.GAINS[gains])


@pytest.mark.slow
def test_the_imported_networks_give_the_recorded_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights by the golden rule, packed as published, imported: the recorded chain comes out (golden README, 6)."""
    recorded = np.load(GOLDEN / "chain_full.npz")
    segmentation, generator, encoder, dissimilarity = FOLDERS
    checkpoints = {
        segmentation: {"state_dict": {f"module.{key}": value for key, value in made("deeplab", "deeplab").items()}},
        generator: made("generator_ngf8_latent1x2", "generator_small"),
        encoder: made("encoder_ngf8", "encoder"),
        dissimilarity: made("dissim_prior", "dissim_prior"),
    }
    vgg19 = {f"features.{key.partition('.')[2]}": value for key, value in made("vgg19", "vgg19").items()}
    torch.save(vgg19, tmp_path / "vgg19.pth")
    archive, out = write_archive(tmp_path / "models.tar", checkpoints), tmp_path / "reference.safetensors"
    del checkpoints
    with pytest.raises(SystemExit) as exit_:
        cli.main(["import", "synboost", str(archive), "--out", str(out), "--vgg19", str(tmp_path / "vgg19.pth")])
    assert exit_.value.code == 0
    weights = load_weights(out)
    assert capsys.readouterr().out == f"import: {out} sha256={weights.sha256}\n"
    segmenter = AnomalySegmenter(weights.config).eval()
    load_strict(segmenter, weights.state, "the import")

    photo = rule.synthetic_input("photo", (*recorded["photo_hw"], 3), "image_u8", "public")
    image = torch.from_numpy(photo).permute(2, 0, 1)[None]
    with torch.inference_mode():
        stages = segmenter.stages(image)
        size = (image.shape[-2], image.shape[-1])
        score = segmenter.to_input_size(segmenter.compare(stages), stages, size).sigmoid()[0].numpy()
    for found, name in ((stages.mu, "mu"), (stages.generated, "generated")):
        assert np.abs(found.numpy() - recorded[name]).max() <= 5e-5 * np.abs(recorded[name]).max()
    difference = np.abs(score - recorded["anomaly_score"].clip(0, 1))
    assert difference.max() <= 2e-2 * recorded["anomaly_score"].max()
    assert difference.mean() <= 5e-4
