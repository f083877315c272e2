"""Reads the examples of a split of a prepared dataset, by index. data.py opens the dataset, and makes batches of what is read here:

    examples = Examples(builder, "train", count=1257)
    examples.gather(np.array([3, 5]))    # {"image": uint8 (2, H, W, C), "label": int32 (2,)}

A split may be a slice in TFDS's notation, or `train[stratified:2000]`, a part in which the classes have the same shares as in the whole.
"""

import io
import re
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from alexnet_jax.errors import UserError

# Splits up to this size stay decoded in memory after the first pass: at 28x28 pixels, a record takes about 20 us to read, memory 1 us.
CACHE_BYTES = 2 << 30
ORDER = "argsort of Philox"  # how an epoch is shuffled; a run can't resume in another order


class Records:
    """Random access to a split: index -> (image uint8 (H, W, C), label).

    This class decodes the images itself: TFDS takes three times as long for a small record, and needs OpenCV for a large one.

    Several threads may read at once: array_record's reader allows concurrent calls of its const methods, reading by index is one of them,
    and each decoding has its own state.
    """

    def __init__(self, builder: Any, split: str):
        import tensorflow_datasets as tfds
        from tensorflow_datasets.proto import tf_example_pb2

        image = builder.info.features["image"]
        self._shape = image.shape
        self._encoding = image.encoding_format if isinstance(image, tfds.features.Image) else "raw"
        self._parse = tf_example_pb2.Example.FromString
        count = stratified_count(split)
        self._order = _mixed_order(builder.info, split.partition("[")[0] if count else split)
        self._splits, self._split, self._chosen = builder.info.splits, split, None
        stored = split.partition("[")[0] if count or self._order is not None else split
        self._source = builder.as_data_source(stored, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        if count:
            order = np.arange(len(self._source)) if self._order is None else self._order
            self._chosen = _stratified(np.array([self._label(self._features(int(index))) for index in order]), count)
            self._order = order[self._chosen]

    def __len__(self) -> int:
        return len(self._source if self._order is None else self._order)

    def shared_with(self, other: "Records") -> int:
        """How many examples both hold, as parts of one split."""
        if self._split.partition("[")[0] != other._split.partition("[")[0]:
            return 0
        return len(np.intersect1d(self.places(), other.places()))

    def places(self) -> np.ndarray:
        """The indices that the examples have in the whole split: int (N,)."""
        return places_of(self._splits, self._split) if self._chosen is None else self._chosen

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        image = np.empty(self._shape, np.uint8)
        return image, self.read_into(index, image)

    def read_into(self, index: int, image: np.ndarray) -> int:
        """Decode an image into its place in a batch, uint8 (H, W, C); returns its label."""
        feature = self._features(index if self._order is None else int(self._order[index]))
        _decode_into(image, feature["image"].bytes_list.value[0], self._encoding)
        return self._label(feature)

    def _features(self, index: int) -> Any:
        """The fields of the record with this number in the stored split."""
        return self._parse(self._source[index]).features.feature

    @staticmethod
    def _label(feature: Any) -> int:
        return feature["label"].int64_list.value[0]


def stratified_count(split: str) -> int:
    """The number of examples that a part like `train[stratified:2000]` names; 0 for other splits."""
    found = re.fullmatch(r"\w+\[stratified:(\d{1,18})\]", split)
    return int(found[1]) if found else 0


def _stratified(labels: np.ndarray, count: int) -> np.ndarray:
    """The places (count,) of the examples with the smallest relative places in their class, from the labels (N,) of a split."""
    places = np.empty(len(labels))
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        places[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
    return np.argsort(places, kind="stable")[:count]


def _mixed_order(info: Any, split: str) -> np.ndarray | None:
    """In which a split, or a slice of one, is read that is stored class by class: otherwise `train[:2000]` would hold two classes."""
    name = split.partition("[")[0]
    if name not in (info.metadata or {}).get("by_class", ()):
        return None
    return shuffled(info.splits[name].num_examples, (0,))[places_of(info.splits, split)]


def places_of(splits: Any, split: str) -> np.ndarray:
    """Which examples of its split a slice in TFDS's notation holds: int (N,).

    Raises:
      ValueError, AssertionError: it is no slice, or the sum of several.
    """
    import tensorflow_datasets as tfds

    (part,) = tfds.core.ReadInstruction.from_spec(split).to_absolute(splits)
    return np.arange(splits[part.splitname].num_examples)[part.from_ : part.to]


def shuffled(size: int, seed: tuple[int, ...]) -> np.ndarray:  # ORDER describes this shuffle
    # NumPy guarantees Philox's raw numbers in every version; it does not guarantee the results of `Generator.permutation`.
    return np.argsort(np.random.Philox(np.random.SeedSequence(seed)).random_raw(size), kind="stable")


def _decode_into(image: np.ndarray, data: bytes, encoding: str) -> None:
    if encoding == "jpeg":
        found = simplejpeg.decode_jpeg(data, "RGB" if image.shape[-1] == 3 else "GRAY", buffer=image)
        if found.shape[:2] != image.shape[:2]:
            raise ValueError(f"a JPEG of {found.shape[:2]} pixels")
        return
    if encoding == "png":  # not load_image: it silences warnings for the whole process, which isn't thread-safe
        data = Image.open(io.BytesIO(data)).tobytes()
    image[...] = np.frombuffer(data, np.uint8).reshape(image.shape)


class Examples:
    """A split as a random-access sequence of {image, label}. A small split is decoded once and kept in memory."""

    def __init__(self, builder: Any, split: str, count: int):
        self._records = Records(builder, split)
        self._where = f"dataset {builder.info.name}, split {split}"
        self._shape = builder.info.features["image"].shape
        self.example_bytes = int(np.prod(self._shape))
        self._cached = np.zeros(count, bool) if count * self.example_bytes <= CACHE_BYTES else None
        if self._cached is not None:
            self._images, self._labels = np.empty((count, *self._shape), np.uint8), np.empty(count, np.int32)

    def __len__(self) -> int:
        return len(self._records)

    def shared_with(self, other: "Examples") -> int:
        """How many examples both hold, as parts of one split."""
        return self._records.shared_with(other._records)

    def places(self) -> np.ndarray:
        """The indices that the examples have in the whole split: int (N,)."""
        return self._records.places()

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {name: values[0] for name, values in self.gather(np.array([index])).items()}

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The examples of these indices: `image` uint8 (N, H, W, C), `label` int32 (N,). Several threads may call this at once."""
        if self._cached is None:
            images, labels = np.empty((len(indices), *self._shape), np.uint8), np.empty(len(indices), np.int32)
            for place, index in enumerate(indices):
                labels[place] = self._read(int(index), images[place])
            return {"image": images, "label": labels}
        for index in indices[~self._cached[indices]]:
            self._labels[index] = self._read(int(index), self._images[index])
            self._cached[index] = True  # set last, since other threads read it
        return {"image": self._images[indices], "label": self._labels[indices]}

    def _read(self, index: int, image: np.ndarray) -> int:
        try:
            return self._records.read_into(index, image)
        except Exception as error:  # array_record, protobuf and the image decoders each raise their own exceptions
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{self._where}: example {index} can't be read ({reason}); prepare the dataset again") from error
