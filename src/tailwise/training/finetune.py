"""Fine-tuning: the whole network on augmented images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tailwise.config import TrainConfig
from tailwise.data.augment import Augmentation, augment, prepare
from tailwise.models.classifier import create_classifier
from tailwise.models.gcn import blank_graph, create_graph
from tailwise.training.compiling import compile_backbone
from tailwise.training.inputs import RunSplits, Split, open_images
from tailwise.training.task import EvaluationTask, Task


@dataclass(frozen=True)
class AugmentedInputs:
    """Augments a batch of training images as a function of (seed, epoch, position)."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    seed: int
    settings: Augmentation

    def __call__(self, inputs: Tensor, *, epoch: int, positions: NDArray[np.int64]) -> Tensor:
        return augment(
            inputs,
            self.size,
            self.mean,
            self.std,
            seed=self.seed,
            epoch=epoch,
            positions=positions,
            settings=self.settings,
        )


def new_task(config: TrainConfig, splits: RunSplits) -> Task:
    """Make the network, and decode the images.

    Raises:
        InputError: the network cannot be made, or an image cannot be read.
    """
    # First what is quick to fail.
    train = splits.train
    graph = create_graph(config.model, train.targets, train.class_names, seed=config.seed)
    model = create_classifier(config.model, len(train.class_names), seed=config.seed, graph=graph)
    model.to(memory_format=torch.channels_last)
    if config.compile:
        compile_backbone(model)
    # Runs that hold out other parts find the whole split decoded.
    whole = open_images(splits.whole, training_size(config), config)
    validation = splits.validation
    return Task(
        model,
        train=whole.subset(~splits.held_out) if splits.held_out.any() else whole,
        train_inputs=AugmentedInputs(config.image_size, model.mean, model.std, config.seed, config.augment),
        test=open_images(splits.test, config.image_size, config),
        validation=None if validation is None else open_images(validation, config.image_size, config),
        test_inputs=partial(prepare, size=config.image_size, mean=model.mean, std=model.std),
    )


def training_size(config: TrainConfig) -> int:
    """Side of the decoded training images: by default the smallest crop has a pixel for every pixel it becomes."""
    return config.cache_size or math.ceil(config.image_size / config.augment.min_crop)


def evaluation_task(config: TrainConfig, state: Mapping[str, Tensor], test: Split) -> EvaluationTask:
    """Make the network with the state of a checkpoint, and decode the images."""
    # The checkpoint holds every weight: none are read from elsewhere.
    architecture = replace(config.model, weights=None, pretrained=False)
    num_classes = len(test.class_names)
    model = create_classifier(architecture, num_classes, graph=blank_graph(architecture, num_classes))
    model.load_state_dict(state)
    model.to(memory_format=torch.channels_last)
    return EvaluationTask(
        model,
        test=open_images(test, config.image_size, config),
        test_inputs=partial(prepare, size=config.image_size, mean=model.mean, std=model.std),
    )
