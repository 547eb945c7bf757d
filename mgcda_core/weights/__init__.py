"""Weights files: shipped, local or downloaded, and the import of published checkpoints.

Nothing is loaded here: `mgcda_core.weights.resolve` and `.synboost` import torch only when they are called.
"""
