"""Samplers whose epochs are pure functions of (seed, epoch), for any number of processes, with resume."""

from tailwise.data.samplers.balanced import ClassAwareSampler, InverseFrequencySampler, RepeatFactorSampler
from tailwise.data.samplers.epoch import EpochSampler, UniformSampler

__all__ = [
    "ClassAwareSampler",
    "EpochSampler",
    "InverseFrequencySampler",
    "RepeatFactorSampler",
    "UniformSampler",
]
