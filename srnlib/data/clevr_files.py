"""Two files with masks that a reader may own: the paper's h5 of CLEVR, and DeepMind's CLEVR (with masks).

The h5 files are written by the paper's released code from its own rendering. `clevr_with_masks_train.tfrecords`
(Kabra et al. 2019, https://github.com/google-deepmind/multi_object_datasets, Apache 2.0) is read without TensorFlow.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from srnlib.data._hash import integer
from srnlib.data.clevr import Clevr, tell_fewer
from srnlib.data.clevr_geometry import boxes
from srnlib.data.clevr_scenes import MAX_OBJECTS

BLOCK = 1000  # images of an h5 file read at once
SOMETHING = 255  # in `Clevr.ids`: an object, but it is not known which
H5 = {"images": "f", "images_foreground": "f", "image_ids": "iu"}  # what is read of the h5 file; kinds of numpy
RECORD = {"image": (240, 320, 3), "mask": (11, 240, 320, 1)}  # mask 0 is the background
H5_HELP = "Give a train- or test-images-foreground.h5 as the paper's released code writes it"
TF_HELP = "Get clevr_with_masks_train.tfrecords from https://github.com/google-deepmind/multi_object_datasets"


def load_h5(path: str | Path, n: int | None = None) -> Clevr:
    """Reads the paper's h5 file; it has no masks of single objects, so neither has the result.

    `foregrounds` are the file's `images_foreground`, with their soft edges, and `ids` is `SOMETHING` where they are not
    black; `covers`, `boxes` and `counts` are 0; `scenes` hold the file's `image_ids` as `image_index`.

    Args:
        path: `<split>-images-foreground.h5`.
        n: Number of images, the first ones; None for all.

    Raises:
        ImportError: Without h5py.
        FileNotFoundError, ValueError: If there is no such file, or it is not one of these.
    """
    path, n = Path(path), None if n is None else integer("n", n, 0)
    try:
        import h5py
    except ImportError:
        raise ImportError("the paper's files need h5py: pip install 'srnlib[clevr]', or pip install h5py") from None
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. {H5_HELP}")
    try:
        with h5py.File(path, "r") as file:
            missing = [name for name in H5 if not isinstance(file.get(name), h5py.Dataset)]
            if missing:
                raise ValueError(f"it has no dataset {', '.join(missing)}")
            shape = file["images"].shape or ()
            if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or 0 in shape:
                raise ValueError(f"images have shape {shape}, expected (N, 3, S, S) with no zero size")
            for name, kind in H5.items():
                found, want = file[name], shape if kind == "f" else shape[:1]
                if found.shape != want or found.dtype.kind not in kind:
                    expected = f"{'floats' if kind == 'f' else 'integers'} {want} as there are images"
                    raise ValueError(f"{name} are {found.dtype} {found.shape}, expected {expected}")
            images, foregrounds = (_bytes(name, file[name], n) for name in ("images", "images_foreground"))
            numbers = file["image_ids"][:n]
            if images.size and images.max() < 26:
                raise ValueError(f"images reach only {images.max()} of 255; were they divided by 255 twice?")
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged, or not one of the paper's files ({error}). {H5_HELP}") from error
    count, size = len(images), shape[-1]
    tell_fewer(path, count, n)
    return Clevr(
        images,
        foregrounds.any(1) * np.uint8(SOMETHING),
        np.zeros((count, size, size), np.uint16),
        np.zeros((count, MAX_OBJECTS, 4), np.int64),
        np.zeros(count, np.int64),
        [{"image_index": int(number), "objects": []} for number in numbers],
        foregrounds,
    )


def _bytes(name: str, stored, n: int | None) -> NDArray[np.uint8]:
    """The first `n` of the stored values in 0..1 as bytes; nothing is lost, the released code made them from bytes."""
    count = len(stored) if n is None else min(n, len(stored))
    found = np.empty((count, *stored.shape[1:]), np.uint8)
    for at in range(0, count, BLOCK):
        values = stored[at : min(at + BLOCK, count)]
        if not (values.min() >= 0 and values.max() <= 1):  # NaN lands here too
            raise ValueError(f"{name} hold values from {values.min():g} to {values.max():g}; expected 0 to 1")
        found[at : at + BLOCK] = np.rint(255 * values)
    return found


def load_tfrecords(path: str | Path, n: int | None = None, *, size: int = 128) -> Clevr:
    """Reads DeepMind's CLEVR (with masks); the 4:3 pictures are squashed into squares.

    Its masks hold what is seen: `covers` and `boxes` are of the visible parts, and `scenes` is empty of objects. Of its
    checksums only those of the records' lengths are checked, and gzip's own if all is read.

    Args:
        path: `clevr_with_masks_train.tfrecords`, compressed as it is published.
        n: Number of images, the first ones; None for all 100,000.
        size: S, side of the pictures.

    Raises:
        FileNotFoundError, ValueError: If there is no such file, or it is damaged or another.
    """
    path, n, size = Path(path), None if n is None else integer("n", n, 0), integer("size", size, 1)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. {TF_HELP}")
    images, ids = [], []
    row, column = ((np.arange(size) + 0.5) * length / size for length in (240, 320))
    try:
        for record in islice(_records(path), None if n is None else max(n, 1)):  # at least one: is it such a file?
            arrays = {name: _pixels(record, name, shape) for name, shape in RECORD.items()}
            images.append(_shrink(arrays["image"], size))
            owner = arrays["mask"][..., 0].argmax(0)  # one of them is 255 at each pixel
            seen, number = np.unique(owner[row.astype(int)[:, None], column.astype(int)], return_inverse=True)
            ids.append(number.reshape(size, size) + (seen[0] > 0))  # what nobody sees gets no number
        if not ids:
            raise ValueError("it holds no records")
    except (OSError, EOFError, zlib.error, ValueError, IndexError) as error:
        raise ValueError(f"{path} is damaged, or another file ({error or 'it ends early'}). {TF_HELP}") from error
    images, ids = np.array(images[:n], np.uint8), np.array(ids[:n], np.uint8).reshape(-1, size, size)
    tell_fewer(path, len(ids), n)
    bits = np.where(ids > 0, np.uint16(1) << (ids - (ids > 0)).astype(np.uint16), np.uint16(0))
    corners, counts = np.zeros((len(ids), MAX_OBJECTS, 4), np.int64), np.zeros(len(ids), np.int64)
    for i, of in enumerate(ids):
        visible = of == np.arange(1, MAX_OBJECTS + 1, dtype=np.uint8)[:, None, None]
        corners[i], counts[i] = boxes(visible), visible.any((1, 2)).sum()
    scenes = [{"image_index": i, "objects": []} for i in range(len(ids))]
    return Clevr(images.reshape(-1, 3, size, size), ids, bits, corners, counts, scenes)


def _shrink(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A picture `[H, W, 3]` as `[3, size, size]`: each new pixel is the mean of the area it covers."""
    for axis in (0, 1):
        edges = np.linspace(0, image.shape[axis], size + 1)
        total = np.cumsum(image, axis=axis, dtype=float)
        total = np.insert(total, 0, 0.0, axis=axis)
        low = np.minimum(edges.astype(int), image.shape[axis] - 1)
        share = np.expand_dims(edges - low, tuple({0, 1, 2} - {axis}))
        at = (1 - share) * total.take(low, axis) + share * total.take(low + 1, axis)
        image = np.diff(at, axis=axis) * size / image.shape[axis]
    return np.rint(image).astype(np.uint8).transpose(2, 0, 1)


def _records(path: Path) -> Iterator[bytes]:
    """The records of a GZIP TFRecord file: length (8 bytes), its checksum (4), data, their checksum (4, unchecked)."""
    with gzip.open(path) as file:
        while head := file.read(12):
            length = int.from_bytes(head[:8], "little")
            if head[8:] != _checksum(head[:8]) or not 0 < length < 1 << 24:
                raise ValueError("it is not made of TFRecords")
            data = file.read(length)
            if len(data) < length or len(file.read(4)) < 4:
                raise EOFError("it ends in the middle of a record")
            yield data


def _checksum(data: bytes) -> bytes:
    """TFRecord's checksum: CRC-32C, bit by bit as suits a few bytes, turned by 15 bits and moved by a constant."""
    crc = int.from_bytes(data, "little") ^ 0xFFFFFFFF
    for _ in range(8 * len(data)):
        crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")


def _pixels(record: bytes, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A feature of a serialised tf.train.Example whose value is a list of strings of one byte each."""
    for feature in _fields(_one(record), 1):
        key, value = (_one(feature, number) for number in (1, 2))
        if bytes(key) == name.encode():
            triples = np.frombuffer(_one(value), np.uint8)  # per byte: tag 0x0A, length 1, the byte
            if triples.size == 3 * np.prod(shape):
                triples = triples.reshape(-1, 3)
                if (triples[:, :2] == (0x0A, 1)).all():
                    return triples[:, 2].reshape(shape)
            raise ValueError(f"feature {name!r} is not of {shape} bytes")
    raise ValueError(f"a record lacks the feature {name!r}")


def _one(message: bytes, number: int = 1) -> bytes:
    """The first field `number` of a message of Protocol Buffers."""
    for value in _fields(message, number):
        return value
    raise ValueError("a record is not a tf.train.Example")


def _fields(message: bytes, number: int) -> Iterator[memoryview]:
    """All fields `number` with a length of their own in a message; the others are passed over."""
    message, at = memoryview(message), 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 != 2:
            raise ValueError(f"a record has a field of an unexpected kind ({tag & 7})")
        length, at = _varint(message, at)
        if at + length > len(message):
            raise ValueError("a record's field reaches past its end")
        if tag >> 3 == number:
            yield message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number in base 128, least digits first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return value, at
