"""The sidecar of an exported chain: written whole, read with suspicion."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from mgcda_core.config import SegmenterConfig
from mgcda_core.inference.sidecar import ArtefactError, Input, Output, Sidecar, read_sidecar, write_sidecar
from mgcda_core.weights.resolve import checksum

OTHER = "0" * 64


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(b"a graph")
    write_sidecar(path, _sidecar(path))
    return path


def _sidecar(path: Path) -> Sidecar:
    return Sidecar(
        format="onnx",
        precision="fp16",
        sha256=checksum(path),
        input=Input("image", ((1, 4), 65, 33, 3)),
        outputs=(Output("logits", (1, 65, 33), "float32", "anomaly logits"),),
        config=SegmenterConfig(threshold=0.25),
        threshold=0.25,
        weights_name="tiny",
        weights_sha256=OTHER,
        versions={"torch": "2.13.0", "opset": "20"},
        gpu=None,
        onnx_sha256=None,
        parity={"max_score_difference": 1e-3, "ap_change": None},
        parity_note="measured",
    )


def _change(artefact: Path, **values: Any) -> None:
    path = artefact.with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_what_is_written_is_read_again(artefact: Path) -> None:
    assert read_sidecar(artefact) == _sidecar(artefact)
    assert [p.name for p in sorted(artefact.parent.iterdir())] == ["tiny.json", "tiny.onnx"], "nothing is left behind"


def test_an_artefact_that_was_changed_is_refused(artefact: Path) -> None:
    artefact.write_bytes(b"another graph")
    with pytest.raises(ArtefactError, match=f"tiny.onnx has sha256 .* names {_sidecar_hash(artefact)}"):
        read_sidecar(artefact)


def _sidecar_hash(artefact: Path) -> str:
    return json.loads(artefact.with_suffix(".json").read_text())["sha256"]


def test_no_sidecar_no_artefact_and_another_format(artefact: Path, tmp_path: Path) -> None:
    engine = artefact.rename(tmp_path / "tiny.engine")
    with pytest.raises(ArtefactError, match=r"has no tiny\.engine\.json beside it"):
        read_sidecar(engine)
    (tmp_path / "tiny.engine.json").write_text((tmp_path / "tiny.json").read_text())
    with pytest.raises(ArtefactError, match="describes format onnx"):
        read_sidecar(engine)
    with pytest.raises(FileNotFoundError, match=r"tiny\.onnx"):
        read_sidecar(artefact)
    onnx = engine.rename(artefact)
    (tmp_path / "tiny.json").unlink()
    with pytest.raises(ArtefactError, match=r"has no tiny\.json beside it"):
        read_sidecar(onnx)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "pickle"}, "format is 'pickle', not one of onnx"),
        ({"format": ["onnx"]}, "format is"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"sha256": "abc"}, "sha256 is 'abc'"),
        ({"threshold": 2}, "threshold is 2"),
        ({"threshold": True}, "threshold is True"),
        ({"weights_name": 3}, "weights_name is 3, not text"),
        ({"versions": {"torch": 2}}, "versions.torch is 2"),
        ({"versions": {str(i): "" for i in range(65)}}, "versions is no object of at most 64"),
        ({"parity": {"max": "small"}}, "parity.max is 'small'"),
        ({"outputs": []}, "outputs is no list"),
        ({"config": {"threshold": 0.5}}, "lacks the field"),
        ({"config": 1}, "config"),
        ({"more": 1}, "it has an unknown field more"),
    ],
)
def test_a_wrong_field_is_named(artefact: Path, values: dict[str, Any], message: str) -> None:
    _change(artefact, **values)
    with pytest.raises(ArtefactError, match=message):
        read_sidecar(artefact)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Sidecar)])
def test_a_missing_field_is_named(artefact: Path, field: str) -> None:
    values = json.loads(artefact.with_suffix(".json").read_text())
    del values[field]
    artefact.with_suffix(".json").write_text(json.dumps(values))
    with pytest.raises(ArtefactError, match=f"it lacks the field {field}"):
        read_sidecar(artefact)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([1, 65, 33], "not batch, height, width, 3"),
        ([1, 65, 33, 4], "not batch, height, width, 3"),
        ([1, 10**9, 33, 3], "a size is 1 to 32768"),
        ([0, 65, 33, 3], "a size is 1 to 32768"),
        ([[4, 1], 65, 33, 3], "a size is 1 to 32768"),
        (["B", 65, 33, 3], "a size is 1 to 32768"),
        ([True, 65, 33, 3], "a size is 1 to 32768"),
    ],
)
def test_sizes_are_checked(artefact: Path, shape: list[Any], message: str) -> None:
    _change(artefact, input={"name": "image", "shape": shape, "dtype": "uint8", "colour": "rgb", "layout": "NHWC"})
    with pytest.raises(ArtefactError, match=message):
        read_sidecar(artefact)


def test_another_colour_order_is_refused(artefact: Path) -> None:
    _change(artefact, input={"name": "i", "shape": [1, 2, 2, 3], "dtype": "uint8", "colour": "bgr", "layout": "NHWC"})
    with pytest.raises(ArtefactError, match=r"input\.colour is 'bgr', not rgb"):
        read_sidecar(artefact)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[]", "it is no object"),
        ("[" * 100_000, "recursion"),
        ('{"threshold": NaN}', "NaN, which is no number"),
        (" " * (1 << 20) + "{}", "larger than 1048576 bytes"),
        ("\udc80", "codec"),
    ],
)
def test_what_is_no_sidecar_gives_one_sentence(artefact: Path, text: str, message: str) -> None:
    artefact.with_suffix(".json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ArtefactError, match=message):
        read_sidecar(artefact)
