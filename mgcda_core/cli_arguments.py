"""Command line -> keyword arguments of the command's function, with jsonargparse's public interface."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args, get_type_hints

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


class Integers(tuple[int, ...]):
    """Comma list of whole numbers: `2` or `2,3`."""

    @classmethod
    def parse(cls, value: object) -> Integers:
        """From text, a number or a sequence of numbers. Raises ValueError."""
        parts = (
            str(value).strip("[]()").split(",") if not isinstance(value, Sequence) or isinstance(value, str) else value
        )
        return cls(int(part) for part in parts if str(part).strip())


class Kinds(tuple[str, ...]):
    """Comma list of output kinds: `score` or `score,mask,overlay`."""

    @classmethod
    def parse(cls, value: object) -> Kinds:
        """From text or a sequence of texts. Raises ValueError naming an unknown kind."""
        from mgcda_core.inference.save import KINDS

        parts = value.split(",") if isinstance(value, str) else cast("Sequence[str]", value)
        kinds = cls(dict.fromkeys(str(part).strip() for part in parts))
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown or not kinds:
            raise ValueError(f"unknown kind {', '.join(map(repr, unknown))}; choose from {','.join(KINDS)}")
        return kinds


def command_arguments(
    name: str, function: Callable[..., Any], words: Sequence[str], positional: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """Keyword arguments of `function` from the words of a command line.

    Flags, types and help come from the signature and the docstring; those in `positional`, as
    (name, help), have no flag. Wrong use ends the program with exit code 2.
    """
    parser = _parser(name, (function.__doc__ or "").split("\n", 1)[0])
    skip: set[str | int] = set()
    kinds = get_type_hints(function)
    for argument, text in positional:
        parser.add_argument(argument, type=kinds[argument], metavar=argument.upper(), help=text)
        skip.add(argument)
    parser.add_function_arguments(function, as_positional=False, skip=skip)
    switches = {f"--{argument}" for argument, kind in kinds.items() if kind is bool}
    pairs = {f"--{argument}" for argument, kind in kinds.items() if tuple[int, int] in (kind, *get_args(kind))}
    return parser.instantiate(parser.parse_args(_paired(_switched_on(words, switches), pairs))).as_dict()


def _switched_on(words: Sequence[str], switches: set[str]) -> list[str]:
    """The words with `--flag` spelt out as `--flag true`, which is the parser's only spelling of a bool."""
    out = []
    for word, following in zip_longest(words, words[1:]):
        out.append(word)
        if word in switches and following not in ("true", "false"):
            out.append("true")
    return out


def _paired(words: Sequence[str], pairs: set[str]) -> list[str]:
    """The words with `--size 720 1280` spelt out as `--size [720,1280]`, which is the parser's only spelling."""
    out, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        out.append(word)
        if word in pairs and len(rest) > 1 and rest[0].isdecimal() and rest[1].isdecimal():
            out.append(f"[{rest.pop(0)},{rest.pop(0)}]")
    return out


def _listed(words: Sequence[str], lists: set[str]) -> list[str]:
    """The words with `--methods a,b` spelt out as `--methods [a,b]`, which is the parser's only spelling of a list."""
    return [f"[{word}]" if before in lists and not word.startswith(("[", "-")) else word
            for before, word in zip(["", *words], words, strict=False)]  # fmt: skip


def config_arguments(name: str, words: Sequence[str]) -> dict[str, Any]:
    """config and the other keywords of a command that a configuration class describes (train, prepare, calibrate ...).

    Every field of the class is a flag and a YAML key.
    """
    from mgcda_core import config

    kind = {"train segmentation": config.SegmentationTraining, "train synthesis": config.SynthesisTraining,
            "train dissimilarity": config.DissimilarityTraining, "train plain": config.PlainTraining,
            "train dicnet": config.DicnetTraining,
            "train adaptation": config.AdaptationTraining, "train pebal": config.PebalTraining,
            "train synthetic_unknown": config.SyntheticUnknownTraining,
            "prepare": config.PrepareConfig, "compare": config.CompareConfig, "ladder": config.LadderConfig,
            "calibrate": config.CalibrationConfig}[name]  # fmt: skip
    flag, place, text = (
        ("run", "DIR", "folder of the run: checkpoints, metrics, weights") if name.startswith("train ")
        else ("out", "FILE", "weights file to write") if name == "calibrate"
        else ("out", "DIR", "folder to write; what stands there already is kept")
    )  # fmt: skip
    resume = " [--resume]" if flag == "run" else ""
    parser = _parser(name, f"{(kind.__doc__ or '').splitlines()[0]} Every field of the configuration is a flag.")
    parser.usage = f"mgcda {name} --config FILE --{flag} {place}{resume} [--FIELD VALUE ...]"
    parser.add_argument("--config", action="config", help="YAML file with the fields below; flags override it")
    parser.add_argument(f"--{flag}", type=Path, required=True, help=text)
    if resume:
        parser.add_argument(
            "--resume", type=bool, nargs="?", const=True, default=False, help="go on from the last checkpoint"
        )
    parser.add_class_arguments(kind, None, as_positional=False)
    lists = {f"--{field}" for field, hint in get_type_hints(kind).items() if hint == tuple[str, ...]}
    values = parser.parse_args(_listed(words, lists))
    try:
        fields = parser.instantiate(values)
        built = kind(**{field.name: fields[field.name] for field in dataclasses.fields(kind)})
    except config.ConfigError as error:
        parser.error(str(error))
    return {"config": built, flag: values[flag], **({"resume": values.resume} if resume else {})}


def _parser(name: str, description: str) -> ArgumentParser:
    from jsonargparse import ArgumentParser, set_parsing_settings
    from jsonargparse.typing import register_type

    set_parsing_settings(docstring_parse_attribute_docstrings=True)  # the texts under the fields of config.py
    for kind in (Integers, Kinds):
        register_type(
            kind, serializer=lambda v: ",".join(map(str, v)), deserializer=kind.parse, fail_already_registered=False
        )
    return ArgumentParser(prog=f"mgcda {name}", description=description)
