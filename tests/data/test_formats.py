"""The readers on tiny files made here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from bsnn.data import DataError
from bsnn.data.formats import cifar_png_tarball, parse_idx, parse_json_labels, parse_png_sheet
from tests.data.tiny import (
    assert_same,
    cifar_batches,
    cifar_tiny,
    png,
    tgz,
)


def test_parse_idx() -> None:
    data = bytes.fromhex("00000802 00000002 00000003") + bytes([1, 2, 3, 4, 5, 6])
    assert parse_idx(data).tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found nothing"),
        (bytes.fromhex("00000d01 00000001 00"), "found 00 00 0d 01"),
        (bytes.fromhex("00000802 00000001"), "IDX header of 12 bytes, found 8"),
        (bytes.fromhex("00000801 00000003 0102"), r"expected 3 values for the IDX shape \(3,\), found 2"),
        (bytes.fromhex("00000802 ffffffff ffffffff 01"), "expected 18446744065119617025 values"),
    ],
)
def test_parse_idx_refuses(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_idx(data)


def test_png_sheet_pixel_by_pixel() -> None:
    sheet = Image.new("RGB", (1024, 2))
    sheet.putpixel((5 * 32 + 7, 1), (10, 20, 30))
    images = parse_png_sheet(png(sheet))
    assert images.shape == (2, 32, 32, 3)
    assert images[1, 5, 7].tolist() == [10, 20, 30]
    assert images.sum() == 60


@pytest.mark.parametrize("sheet", [Image.new("L", (1024, 2)), Image.new("RGB", (32, 2))])
def test_png_sheet_refuses(sheet: Image.Image) -> None:
    with pytest.raises(DataError, match="expected an RGB sheet 1024 wide, found"):
        parse_png_sheet(png(sheet))


def test_cifar_png_tarball(tmp_path: Path) -> None:
    expected = cifar_tiny()
    members = {f"{name}.png": png(Image.fromarray(x.reshape(-1, 1024, 3))) for name, x, _ in cifar_batches(expected)}
    for split in ("train", "test"):
        members[f"{split}_lables.json"] = json.dumps(expected[f"{split}_labels"].tolist()).encode()
    assert_same(cifar_png_tarball(tgz(tmp_path / "cifar.tgz", members)), expected)
    del members["data_batch_3.png"]
    with pytest.raises(DataError, match=r"cifar\.tgz holds no data_batch_3\.png"):
        cifar_png_tarball(tgz(tmp_path / "cifar.tgz", members))


def test_json_labels_out_of_range() -> None:
    with pytest.raises(OverflowError):
        parse_json_labels(b"[1, 256]")
