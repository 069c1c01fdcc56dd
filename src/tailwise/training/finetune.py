"""Fine-tuning: the whole network, compiled where wanted, on augmented images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tailwise.data.dataset import Dataset
from tailwise.data.pixels.augment import augment, prepare
from tailwise.errors import InputError
from tailwise.models.extractor import RECORD_FILE, BackboneRecord, describe_backbone, prepare_for_inference
from tailwise.models.gcn import blank_graph, create_graph
from tailwise.models.heads import Classifier, Head, create_classifier
from tailwise.models.model_config import ModelConfig
from tailwise.training.config import TrainConfig
from tailwise.training.exact import MakeLoss, solve_head
from tailwise.training.folder import checkpoint_path
from tailwise.training.inputs import Images, RunSplits, open_images
from tailwise.training.testing import PRECISION_TYPES, Task, TrainingTask, forward_table

_IMAGES_PER_BATCH = 64


def new_task(config: TrainConfig, splits: RunSplits, device: torch.device, make_loss: MakeLoss) -> TrainingTask:
    """Make the network, decode the images, and solve the head to start with unless it starts at random.

    Args:
        config: the run, resolved.
        splits: its labels.
        device: where to compute the features that the head is solved on.
        make_loss: makes the loss of a configuration for statistics of training labels.

    Raises:
        InputError: the network cannot be made, or an image cannot be read.
    """
    # First what is quick to fail.
    train = splits.train
    graph = create_graph(config.model, train.targets, train.class_names, seed=config.seed)
    folder = Path(config.output)
    is_resumed = config.resume and checkpoint_path(folder).is_file()
    network = _without_weights(folder, config.model) if is_resumed else config.model
    model = create_classifier(network, len(train.class_names), seed=config.seed, graph=graph)
    if is_resumed:
        recorded = BackboneRecord.load(folder / RECORD_FILE)
    else:
        recorded = describe_backbone(model.backbone, config.model, seed=config.seed)
    model.to(memory_format=torch.channels_last)
    if config.compile:
        model.backbone.compile()  # not the head: its dropout draws the same numbers as without compiling
    # The whole split is decoded, so that runs that hold out other parts share it.
    whole = open_images(splits.whole, training_size(config), config)
    train_images = whole.subset(~splits.held_out) if splits.held_out.any() else whole
    if config.head.solver == "exact" and not is_resumed:
        start_with_solved_head(model, train_images, config, device, make_loss)
    validation = splits.validation
    return TrainingTask(
        model=model,
        train=train_images,
        train_inputs=partial(
            augment,
            size=config.image_size,
            mean=model.mean,
            std=model.std,
            seed=config.seed,
            settings=config.augment,
        ),
        test=None if splits.test is None else open_images(splits.test, config.image_size, config),
        validation=None if validation is None else open_images(validation, config.image_size, config),
        test_inputs=partial(prepare, size=config.image_size, mean=model.mean, std=model.std),
        record=recorded,
    )


def start_with_solved_head(
    model: Classifier, images: Images, config: TrainConfig, device: torch.device, make_loss: MakeLoss
) -> None:
    """Solve the linear layer on the features that the network has of the training images, as they are.

    A random head sends large gradients into the backbone, which distort its features before the head is any good: Kumar
    et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR 2022.

    Args:
        model: its neck scales features to the root mean square 1.
        images: the decoded training images.
        config: the run, resolved.
        device: where to compute.
        make_loss: makes the loss of a configuration for statistics of training labels.
    """
    assert isinstance(model.head, Head)
    frozen = prepare_for_inference(model.backbone, PRECISION_TYPES[config.precision]).to(device)
    features = forward_table(
        lambda rows: frozen(prepare(rows, config.image_size, model.mean, model.std)),
        images.table,
        device=device,
        batch_size=_IMAGES_PER_BATCH,
        description="features to solve the head on",
        show=not config.quiet,
    )
    unscaled = replace(config, head=replace(config.head, transform="none"))
    solved = solve_head(features.to(device), images.split, unscaled, make_loss)
    linear = model.head.linear
    with torch.no_grad():
        # It is solved for features of the norm 1.
        linear.weight.copy_(solved.weight / math.sqrt(linear.in_features))
        linear.bias.copy_(solved.bias)


def training_size(config: TrainConfig) -> int:
    """Side of the decoded training images in pixels: by default the smallest crop is never enlarged."""
    return config.cache_size or math.ceil(config.image_size / config.augment.min_crop)


def restore(run: Path, config: TrainConfig, state: Mapping[str, Tensor], num_classes: int) -> Classifier:
    """Make the network of the run in a folder, with the state of its checkpoint."""
    architecture = _without_weights(run, config.model)
    model = create_classifier(architecture, num_classes, graph=blank_graph(architecture, num_classes))
    model.load_state_dict(state)
    return model.to(memory_format=torch.channels_last)


def evaluation_task(run: Path, config: TrainConfig, state: Mapping[str, Tensor], test: Dataset) -> Task:
    """Make the network of the run in a folder with the state of its checkpoint, and decode the images."""
    model = restore(run, config, state, len(test.class_names))
    return Task(
        model=model,
        test=open_images(test, config.image_size, config),
        test_inputs=partial(prepare, size=config.image_size, mean=model.mean, std=model.std),
    )


def _without_weights(run: Path, model: ModelConfig) -> ModelConfig:
    """The network of a run whose checkpoint holds all weights: no others are read."""
    record = BackboneRecord.load(run / RECORD_FILE)
    return replace(model, weights=None, pretrained=False) if record is None else record.model(model)


def require_compiler(device: torch.device) -> None:
    """Compile a small function, so that a missing compiler is reported before images are decoded.

    Args:
        device: the device of the network.

    Raises:
        InputError: the machine has no C++ compiler, or for a GPU no Triton.
    """
    # Without the cache, the trial needs the compiler each time.
    trial = torch.compile(_doubled, options={"fx_graph_cache": False})
    try:
        trial(torch.zeros(8, device=device))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--compile: nothing can be compiled on this machine ({reason}); install a C++ compiler such as g++ "
            "(a GPU needs Triton too), or train without --compile"
        ) from error


def _doubled(values: Tensor) -> Tensor:
    return values * 2
