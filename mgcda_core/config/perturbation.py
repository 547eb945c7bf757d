"""Invariance to pointwise adversarial perturbations of a feature map (Yang et al., AAAI 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from mgcda_core.config.chain import ConfigError


@dataclass(frozen=True)
class PerturbationConfig:
    """Attack on a feature map and defence against it (spec 7, seed 003).

    Reconstruction: only the paper's abstract was at hand, so every number here is a choice.
    """

    steps: int = 3
    """K, steps of the attack; 0 leaves the features as they are."""
    domain_step: float = 0.05
    """Step against the domain classifier, in standard deviations of the feature's channel."""
    task_step: float = 0.05
    """Step against the task's classifier, in standard deviations of the feature's channel."""
    weight: float = 1.0
    """Weight of the cross entropy of the perturbed features, where there are labels."""
    consistency: float = 1.0
    """beta: weight of the squared difference between the probabilities of perturbed and clean features."""
    encoder: bool = False
    """The defence trains what makes the features as well; else what reads them alone, as "a domain-invariant
    classifier" of the abstract says."""
    lr: float = 1e-4
    """Learning rate of the domain classifier (Adam, same decay as the network's)."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Adam's decay rates of the domain classifier."""
    hidden: int = 64
    """Channels of the domain classifier's layers."""

    def __post_init__(self) -> None:
        for name in ("steps", "domain_step", "task_step", "weight", "consistency"):
            if getattr(self, name) < 0:
                raise ConfigError(f"perturbation.{name} is {getattr(self, name)}: it must be 0 or more")
        for name in ("lr", "hidden"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"perturbation.{name} is {getattr(self, name)}: it must be above 0")
