"""Compare our networks, the chain and the metrics with a folder of recorded outputs, one line a case.

    python tests/golden_check.py --dir tests/golden

NAME.npz was recorded with the salt `public`, SALT_NAME.npz with that salt; sizes, widths and the batch come from the
file. Weights and inputs follow the rule in tests/golden; nothing in --dir is executed. Exit 1 if a case fails or none
ran, 2 for wrong use.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import golden_chain  # noqa: E402 - after the path is set
import golden_metrics  # noqa: E402
import golden_networks  # noqa: E402
from golden_compare import Outcome, compare  # noqa: E402
from golden_rule import Recording, weights  # noqa: E402

CASES: dict[str, Callable[[Recording], Outcome]] = {
    "dissim_prior": golden_networks.dissimilarity,
    "dissim_baseline": golden_networks.dissimilarity,
    "vgg19_difference": golden_networks.perceptual,
    "generator_small": golden_networks.generator,
    "generator_full": golden_networks.generator,
    "encoder_small": golden_networks.encoder,
    "encoder_full": golden_networks.encoder,
    "deeplab": golden_networks.deeplab,
    "training_check": golden_networks.training,
    "chain_glue": golden_chain.glue,
    "chain_full": golden_chain.full,
}
_STEM = re.compile(rf"(?:(?P<salt>.+)_)?(?P<name>{'|'.join(CASES)}|metrics)")


def split_stem(stem: str) -> tuple[str, str] | None:
    """File stem -> (salt, case name); a salt may hold underscores. None if it names no known case."""
    match = _STEM.fullmatch(stem)
    return (match["salt"] or "public", match["name"]) if match else None


def run_case(path: Path, salt: str, name: str) -> Outcome:
    """Run and judge one recording; what goes wrong on the way is a problem of the case, never a stop of the run."""
    try:
        if name == "metrics":
            return golden_metrics.check(path, salt)
        with np.load(path, allow_pickle=False) as archive:
            recording = Recording(name, salt, {key: archive[key] for key in archive.files})
        outcome = CASES[name](recording)
        compare(recording.arrays, outcome)
    except Exception as error:  # a broken recording or network must show as one failed line
        return Outcome(problems=[f"{type(error).__name__}: {error}"])
    if not outcome.measured and not outcome.problems:
        outcome.problems.append("nothing in the recording could be compared")
    return outcome


def line(stem: str, outcome: Outcome, seconds: float) -> tuple[bool, str]:
    """Whether the case passed, and its line: the error that used most of its tolerance, or everything that failed."""
    failed = [f"{n} {e:.1e} > {t:.1e}" for n, e, t in outcome.measured if not e <= t]
    if outcome.problems or failed:
        return False, f"FAIL  {stem:<28} " + "; ".join(outcome.problems + failed)
    name, error, tolerance = max(outcome.measured, key=lambda m: m[1] / m[2] if m[2] else 0.0)
    worst = f"{name} {error:.1e} of {tolerance:.1e}"
    return True, f"ok    {stem:<28} {worst} (worst of {len(outcome.measured)}, {seconds:.1f} s)"


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, help="folder of recordings")
    folder: Path = parser.parse_args(arguments).dir
    if not folder.is_dir():
        parser.error(f"--dir {folder} is not a folder")
    passed = failed = 0
    last_salt = None
    for path in sorted([*folder.glob("*.npz"), *folder.glob("*metrics.json")]):
        named = split_stem(path.stem)
        if named is None:
            print(f"FAIL  {path.stem:<28} no case of that name: {', '.join([*CASES, 'metrics'])}")
            failed += 1
            continue
        if named[0] != last_salt:
            weights.cache_clear()  # up to 1.2 GB a salt
            last_salt = named[0]
        start = time.perf_counter()
        outcome = run_case(path, *named)
        good, text = line(path.stem, outcome, time.perf_counter() - start)
        print(text, flush=True)
        passed, failed = passed + good, failed + (not good)
    print(f"golden_check: {passed} passed, {failed} failed")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
