"""Parity with the recorded reference outputs, and tests of tests/golden_check.py itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import golden_check
import numpy as np
import pytest
import torch
from golden_compare import Expected, Outcome, compare, parts, relative, steps
from golden_rule import GOLDEN, Recording, keys_of, recorded_keys, reference_keys

from mgcda_core.config import SynthesisConfig
from mgcda_core.models.synthesis import Generator, StyleEncoder

PUBLIC = [*golden_check.CASES, "metrics"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", PUBLIC)
def test_public_recording(name: str) -> None:
    path = GOLDEN / (f"{name}.json" if name == "metrics" else f"{name}.npz")
    outcome = golden_check.run_case(path, "public", name)
    passed, text = golden_check.line(name, outcome, 0.0)
    assert passed, text
    assert outcome.measured


def _record(name: str, salt: str, arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Input checksums and whole arrays of a case of our own making; `arrays` states its size."""
    outcome = golden_check.CASES[name](Recording(name, salt, arrays))
    crcs = {key: np.array(value) for key, value in outcome.crcs.items() if not key.startswith("crc_weights_")}
    return crcs, {key: expected.value for key, expected in outcome.expected.items()}


def test_other_salts_widths_sizes_and_batches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The machinery on recordings of our own outputs: it must find size, batch and parts from the arrays alone."""
    crcs, whole = _record("vgg19_difference", "two_words", {"raw": np.zeros((2, 1, 32, 48))})
    item = {"raw_item1_sub3": whole["raw"][1][..., ::3, ::3], "scaled_u8_trunc_item0": whole["scaled_u8_trunc"][0]}
    np.savez(tmp_path / "two_words_vgg19_difference.npz", **crcs, **item)
    size = {"ngf": np.array(2), "latent_hw": np.array([1, 3])}
    crcs, whole = _record("generator_small", "s", size)
    image = {"image_sub5": whole["image"][..., ::5, ::5], "up_0_mean": whole["up_0"].mean((2, 3))}
    np.savez(tmp_path / "s_generator_small.npz", **size, **crcs, **image, up_0_sub=whole["up_0"][:, ::2, ::4, ::4])
    assert golden_check.main(["--dir", str(tmp_path)]) == 0
    assert "golden_check: 2 passed, 0 failed" in capsys.readouterr().out


def _glue(tmp_path: Path, **changes: np.ndarray) -> int:
    with np.load(GOLDEN / "chain_glue.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    np.savez(tmp_path / "chain_glue.npz", **{**arrays, **changes})
    return golden_check.main(["--dir", str(tmp_path)])


def test_a_wrong_value_and_an_unknown_array_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(GOLDEN / "chain_glue.npz") as archive:
        edges, score = archive["edges_small"].copy(), archive["anomaly_score"]
    assert _glue(tmp_path) == 0
    edges[3, 5] ^= 1
    assert _glue(tmp_path, edges_small=edges) == 1
    assert "edges_small 1.2e-04 > 0.0e+00" in capsys.readouterr().out
    assert _glue(tmp_path, anomaly_score=score * 1.0001) == 1
    assert _glue(tmp_path, anomaly_score=np.full_like(score, np.nan)) == 1
    assert _glue(tmp_path, crc_input_photo=np.array(1)) == 1
    assert "crc_input_photo is 4011181225, recorded 1" in capsys.readouterr().out
    assert _glue(tmp_path, mystery=score) == 1
    assert "unknown array mystery" in capsys.readouterr().out


def test_a_folder_without_a_case_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert golden_check.main(["--dir", str(tmp_path)]) == 1
    np.savez(tmp_path / "holiday_photos.npz", a=np.zeros(1))
    (tmp_path / "public_encoder_small.npz").write_bytes(b"not an archive")
    assert golden_check.main(["--dir", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "no case of that name" in out
    assert "golden_check: 0 passed, 2 failed" in out


def test_nothing_in_the_folder_is_executed_and_a_missing_folder_is_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "synthetic_weights.py").write_text("raise SystemExit('executed')")
    script = str(Path(golden_check.__file__))
    for folder, code in ((tmp_path, 1), (tmp_path / "missing", 2)):
        run = subprocess.run(
            [sys.executable, script, "--dir", str(folder)], capture_output=True, text=True, cwd=tmp_path
        )
        assert run.returncode == code
        assert "executed" not in run.stdout + run.stderr
        assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("chain_full", ("public", "chain_full")),
        ("a_b_c_dissim_prior", ("a_b_c", "dissim_prior")),
        ("x_metrics", ("x", "metrics")),
        ("dissim", None),
        ("chain_full_x", None),
    ],
)
def test_stems_name_salt_and_case(stem: str, expected: tuple[str, str] | None) -> None:
    assert golden_check.split_stem(stem) == expected


@pytest.mark.parametrize("name", [name for name in recorded_keys() if name.startswith(("generator", "encoder"))])
def test_keys_of_unlisted_widths_follow_the_listed_ones(name: str) -> None:
    """What is derived from our own modules equals keys.json wherever keys.json has the network."""
    ngf = int(name.split("ngf")[1].split("_")[0])
    with torch.device("meta"):
        if name.startswith("encoder"):
            own: torch.nn.Module = StyleEncoder(SynthesisConfig(encoder_width=ngf))
        else:
            height, width = (64 * int(v) for v in name.split("latent")[1].split("x"))
            own = Generator(SynthesisConfig(ngf=ngf, size=(height, width)))
    assert dict(reference_keys(own)) == dict(recorded_keys()[name])


def test_unlisted_widths_have_keys() -> None:
    assert dict(keys_of("generator_ngf3_latent2x2"))["fc.weight"] == (16 * 3 * 4, 256)
    assert dict(keys_of("encoder_ngf3"))["layer1.0.weight_v"] == (27,)


def test_parts_are_found_by_shape() -> None:
    value = np.arange(2 * 19 * 8 * 12).reshape(2, 19, 8, 12)
    for expected, step, offsets in (
        (value[:, ::6], 0, (0,)),
        (value[:1, :, 2::4, 2::4], 0, (2, 0)),
        (value[0, ..., ::3, ::3], 3, (0,)),
    ):
        assert any(np.array_equal(p, expected) for p in parts(value, "nchw", expected.shape, step, offsets))
    assert not list(parts(value, "nchw", (3, 19, 8, 12), 0, (0,)))
    assert not list(parts(value, "nchw", (19, 8, 13), 0, (0,)))


def test_statistics_samples_and_8_bit_steps_are_judged() -> None:
    value = np.random.default_rng(0).random((2, 3, 4, 4))
    byte = np.zeros((1, 10, 10), np.uint8)
    outcome = Outcome({"x": Expected(value, "nchw", relative(1e-6)), "b": Expected(byte, "nhw", steps(0.01))})
    one_off, two_off = byte.copy(), byte.copy()
    one_off[0, 0, 0], two_off[0, 0, 0] = 1, 2
    good = {"x_mean": value.mean((2, 3)), "x_item1_std": value[1].std((1, 2)), "b": one_off[0]}
    compare(good, outcome)
    assert not outcome.problems and all(error <= tolerance for _, error, tolerance in outcome.measured)
    bad = Outcome(outcome.expected)
    compare({"x_item2": value[0], "x_item1": value[0], "b": two_off}, bad)
    assert bad.problems == ["x_item2: there is no sample 2"]
    assert all(error > tolerance for _, error, tolerance in bad.measured) and len(bad.measured) == 2
