"""SegmenterConfig as the JSON of a weights file: what was written comes back, everything else is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mgcda_core.config import PRIORS, PROFILES, ConfigError, SegmenterConfig


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_json_gives_the_same_configuration(name: str) -> None:
    assert SegmenterConfig.from_json(PROFILES[name].to_json()) == PROFILES[name]


def test_a_whole_number_is_a_number() -> None:
    assert SegmenterConfig.from_json(_changed("threshold", 1)).threshold == 1


def _changed(field: str, value: object) -> str:
    raw: dict[str, Any] = json.loads(SegmenterConfig().to_json())
    part, _, leaf = field.rpartition(".")
    (raw[part] if part else raw)[leaf] = value
    return json.dumps(raw)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("threshold", "high", "threshold is 'high', not float"),
        ("threshold", True, "threshold is True, not float"),
        ("scaling", None, "scaling is None, not str"),
        ("segmentation", [1], r"segmentation is \[1\], not SegmentationConfig"),
        ("segmentation.width", "24", "width is '24', not int"),
        ("segmentation.width", 24.0, "width is 24.0, not int"),
        ("segmentation.size", 384, "size is 384, not two whole numbers"),
        ("synthesis.size", [128], r"size is \[128\], not two whole numbers"),
        ("dissimilarity.size", ["a", "b"], "size is .*, not two whole numbers"),
        ("dissimilarity.prior", 1, "prior is 1, not a list of names"),
        ("dissimilarity.prior", ["entropy", 2], r"prior is \['entropy', 2\], not a list of names"),
        ("dissimilarity.prior", ["distance"], r"dissimilarity.prior is \[distance\]: give \[entropy, perceptual, dist"),
        ("dissimilarity.colour", 3, "dissimilarity has an unknown field colour"),
    ],
)
def test_a_mistyped_field_is_named(field: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=f"not a segmenter configuration: {message}"):
        SegmenterConfig.from_json(_changed(field, value))


@pytest.mark.parametrize("part", ["", "segmentation"])
def test_a_missing_field_is_named(part: str) -> None:
    raw: dict[str, Any] = json.loads(SegmenterConfig().to_json())
    del (raw[part] if part else raw)["size" if part else "threshold"]
    with pytest.raises(ConfigError, match=r"lacks the field (size|threshold)"):
        SegmenterConfig.from_json(json.dumps(raw))


def test_weights_files_written_before_a_field_existed_read_as_what_they_were_made_with() -> None:
    raw: dict[str, Any] = json.loads(SegmenterConfig().to_json())
    for name in ("detail", "stem_kernel", "spade_hidden", "correlation_groups", "void_channel", "residual"):
        del raw["dissimilarity"][name]
    del raw["synthesis"]["detail"], raw["segmentation"]["huggingface"]
    assert SegmenterConfig.from_json(json.dumps(raw)) == SegmenterConfig()


@pytest.mark.parametrize(("stored", "meant"), [(True, PRIORS[:3]), (False, ()), ([], ()), (list(PRIORS), PRIORS)])
def test_the_maps_of_the_prior_were_once_a_yes_or_no(stored: object, meant: tuple[str, ...]) -> None:
    read = SegmenterConfig.from_json(_changed("dissimilarity.prior", stored))
    assert read.dissimilarity.prior == meant
    assert SegmenterConfig.from_json(read.to_json()) == read


@pytest.mark.parametrize("text", ["", "5", "[]", "null", "{"])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a segmenter configuration"):
        SegmenterConfig.from_json(text)
