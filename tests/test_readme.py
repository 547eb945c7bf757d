"""The README keeps what it says: links lead somewhere, commands and make targets exist."""

from __future__ import annotations

import re
from pathlib import Path

from mgcda_core.cli import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_relative_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_mgcda_command_is_known() -> None:
    second = "segmentation|synthesis|dissimilarity|synboost|check"
    named = re.findall(rf"^mgcda ([a-z0-9-]+(?: (?:{second}))?)", README, re.M)
    assert named
    assert [name for name in named if name not in COMMANDS] == []


def test_every_make_target_is_known() -> None:
    targets = set(re.findall(r"\bmake ([a-z-]+)", README))
    makefile = (ROOT / "Makefile").read_text()
    assert {"demo", "test"} <= targets
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.M)] == []
