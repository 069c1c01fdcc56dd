"""Trained classifiers: loading, prediction and evaluation."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tailwise.data.dataset import Dataset, features_of
from tailwise.data.pixels.augment import prepare
from tailwise.data.pixels.decode import decode_image, in_threads, square_pixels
from tailwise.data.reading import ReadOptions
from tailwise.errors import InputError
from tailwise.labels import LabelStats
from tailwise.models.backbone import refuse_sources
from tailwise.shapes import Float, UInt8
from tailwise.training import finetune, probe
from tailwise.training.config import Accelerator, load
from tailwise.training.folder import CONFIG_FILE, STATS_FILE, load_thresholds, model_state
from tailwise.training.run import Result, evaluate, require_finished
from tailwise.training.testing import choose_device

if TYPE_CHECKING:
    import pandas as pd

ImageInput: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[np.uint8]"

_DECODING_THREADS = 4


class Model:
    """A trained classifier, in the folder of its run.

    Where the run had validation images, probabilities are calibrated, and every class has its own threshold; else
    probabilities are plain sigmoids, with the threshold 1/2.

    Args:
        folder: folder of a finished run.
        accelerator: the device to compute on; by default the available one.
        trust: whether the configuration of the run may name a backbone that is read from files or the network.

    Attributes:
        folder: the folder.
        config: the configuration of the run.
        stats: statistics of the training labels, with the names of the K classes.
        decisions: thresholds and calibration, or None.
        metrics: the metrics of the test of the run.

    Raises:
        InputError: the folder does not hold a finished run, or one of its files cannot be used.

    Example:
        >>> import tailwise as tw
        >>> model = tw.load("runs/db")  # doctest: +SKIP
        >>> model.predict(["a.jpg", "b.jpg"])["labels"].tolist()  # doctest: +SKIP
        [['cat', 'dog'], ['bird']]
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, accelerator: Accelerator = "auto", trust: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.metrics = require_finished(self.folder)
        self.config = load(self.folder / CONFIG_FILE)
        if not trust:
            refuse_sources(self.config.model, str(self.folder / CONFIG_FILE), "give trust=True if you trust its maker")
        self.stats = LabelStats.load(self.folder / STATS_FILE)
        self.decisions = load_thresholds(self.folder)
        self._trust = trust
        precision = self.config.precision if self.config.mode == "probe" else "fp32"
        self.device = choose_device(accelerator, precision)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes."""
        return self.stats.class_names

    def __repr__(self) -> str:
        total = next(iter(self.metrics.get("mAP", {}).values()), None)
        tested = "" if total is None else f", mAP {total:.2f} on {self.metrics['split']}"
        config = self.config
        return f"Model({config.loss} on {config.model.backbone}, {len(self.class_names)} classes{tested})"

    def predict(
        self, inputs: ImageInput | Sequence[ImageInput] | NDArray[Any] | Tensor, *, batch_size: int = 64
    ) -> pd.DataFrame:
        """Classify images.

        Args:
            inputs: an image, or a sequence of them: names of files, Pillow images, or uint8 pixels of the shape
                (H, W), (H, W, 3) or (H, W, 4). Of a model on frozen features also (N, F) floating-point features.
            batch_size: images that the network sees at once.

        Returns:
            A row for each input, indexed by the name of its file or by its position: first the column ``labels``, lists
            of the names of the classes that are predicted, then the probability of every class by its name.

        Raises:
            InputError: a file cannot be read, an array is not an image, or features have another width.
        """
        import pandas as pd

        index, logits = self._named_logits(inputs, batch_size)
        if self.decisions is None:
            probabilities, predicted = torch.sigmoid(logits.double()), logits >= 0
        else:
            probabilities, predicted = self.decisions.calibrate(logits), self.decisions.predict(logits)
        names = np.array(self.class_names, dtype=object)
        labels = pd.Series([names[row].tolist() for row in predicted.numpy()], index=index, name="labels", dtype=object)
        table = pd.DataFrame(probabilities.numpy(), index=index, columns=list(self.class_names))
        return pd.concat([labels, table], axis=1)

    def logits(
        self, inputs: ImageInput | Sequence[ImageInput] | NDArray[Any] | Tensor, *, batch_size: int = 64
    ) -> NDArray[np.float32]:
        """(N, K) raw scores of images; arguments and errors as for :meth:`predict`."""
        scores: NDArray[np.float32] = self._named_logits(inputs, batch_size)[1].numpy()
        return scores

    def evaluate(
        self,
        data: str | os.PathLike[str] | Dataset | None = None,
        *,
        split: str | None = None,
        output: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Result:
        """Test the model; see :func:`tailwise.training.run.evaluate`.

        Args:
            data: labelled data with classes of the run, or where they lie; by default the data of the run.
            split: split to test on; by default the test split of the run, or all rows of other data.
            output: folder for metrics and predictions; nothing is written without it.
            options: how to read ``data``, as for :func:`tailwise.read`.

        Returns:
            The metrics, in percent.

        Raises:
            InputError: the data do not fit the run, or ``output`` has results already.
        """
        return evaluate(
            self.folder,
            data=os.fspath(data) if isinstance(data, os.PathLike) else data,
            options=ReadOptions(**options) if options else None,
            split=split,
            output=None if output is None else Path(output),
            trust=self._trust,
        )

    def _named_logits(self, inputs: Any, batch_size: int) -> tuple[list[Any], Float[Tensor, "N K"]]:
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        with torch.inference_mode():
            if (features := _as_features(inputs)) is not None:
                return list(range(len(features))), self._classify_features(features)
            images = _as_list(inputs)
            names = [image if isinstance(image, str) else str(image) if isinstance(image, os.PathLike) else position
                     for position, image in enumerate(images)]  # fmt: skip
            parts = [
                self._network(torch.from_numpy(pixels).to(self.device)).float().cpu()
                for pixels in self._decoded(images, batch_size)
            ]
            return names, torch.cat([torch.empty(0, len(self.class_names)), *parts])

    def _decoded(self, images: Sequence[Any], batch_size: int) -> Iterator[UInt8[np.ndarray, "B 3 S S"]]:
        """Pixels of the images, a batch at a time."""
        read = partial(_pixels, size=self.config.image_size)
        with closing(in_threads(read, enumerate(images), _DECODING_THREADS)) as decoded:
            while batch := [pixels.result() for pixels in islice(decoded, batch_size)]:
                yield np.stack(batch)

    @cached_property
    def _probe(self) -> tuple[probe.ProbeModel, probe.Backbone | None]:
        model, backbone = probe.restore(
            self.folder, self.config, model_state(self.folder), len(self.class_names), self.device
        )
        return model.to(self.device).eval(), backbone

    @cached_property
    def _network(self) -> Any:
        """Maps (B, 3, S, S) uint8 pixels on the device to (B, K) logits."""
        size = self.config.image_size
        if self.config.mode == "probe":
            head, backbone = self._probe
            if backbone is None:
                raise InputError(f"the model has no backbone: it takes {head.width} features of each input, not images")
            return lambda pixels: head(backbone.features(pixels, size))
        network = finetune.restore(self.folder, self.config, model_state(self.folder), len(self.class_names))
        network = network.to(self.device).eval()
        return lambda pixels: network(prepare(pixels, size, network.mean, network.std))

    def _classify_features(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N K"]:
        if self.config.mode != "probe":
            raise InputError("this model was fine-tuned, and takes images: features do not fit its network")
        head = self._probe[0]
        width = head.width
        if features.shape[1] != width:
            raise InputError(f"the model takes {width} features for each input, got {features.shape[1]}")
        return head(features.to(self.device)).float().cpu()  # type: ignore[no-any-return]


def _as_features(inputs: Any) -> Float[Tensor, "N F"] | None:
    """Inputs as features, if they are a matrix of floating-point numbers."""
    if isinstance(inputs, np.ndarray) and np.issubdtype(inputs.dtype, np.floating):
        inputs = torch.from_numpy(np.ascontiguousarray(inputs))
    if not isinstance(inputs, Tensor):
        return None
    if inputs.ndim != 2 or not inputs.is_floating_point():
        raise InputError(
            f"a matrix of floating-point numbers is taken for features, got {inputs.dtype} of the shape "
            f"{tuple(inputs.shape)}; images are uint8 arrays of the shape (H, W, 3)"
        )
    return torch.from_numpy(features_of(inputs.numpy(force=True), "the input"))


def _as_list(inputs: Any) -> list[Any]:
    is_one = isinstance(inputs, str | os.PathLike | Image.Image) or (
        isinstance(inputs, np.ndarray) and (inputs.ndim == 2 or (inputs.ndim == 3 and inputs.shape[2] in (3, 4)))
    )
    if is_one:
        return [inputs]
    if not isinstance(inputs, Iterable):
        raise InputError(f"expected an image, or a sequence of them, got {type(inputs).__name__}")
    return list(inputs)


def _pixels(numbered: tuple[int, Any], size: int) -> UInt8[np.ndarray, "3 S S"]:
    position, image = numbered
    if isinstance(image, str | os.PathLike):
        pixels = decode_image(Path(image), size)
    else:
        try:
            pixels = square_pixels(image, size)
        except (ValueError, TypeError) as error:
            raise InputError(f"input {position} is not an image: {error}") from error
    return pixels.transpose(2, 0, 1)
