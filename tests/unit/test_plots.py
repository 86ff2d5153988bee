"""Pictures against hand-made cases: which pixel gets whose colour, and where a sheet puts an image."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from srnlib import plots


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def elements() -> np.ndarray:
    """Four elements of 2 x 2 pixels: element 1 paints the left column green, element 3 half of the upper right red."""
    shares = np.zeros((4, 3, 2, 2), np.float32)
    shares[1, 1, :, 0] = 1.0
    shares[3, 0, 0, 1] = 0.5
    shares[0, 0, 0, 1] = 0.25  # a smaller share of the same pixel
    return shares


def test_tint_gives_each_pixel_the_colour_of_the_brightest_element():
    panels, whole = plots.tint(torch.from_numpy(elements()))
    colours = plots.element_colours(4)
    np.testing.assert_allclose(whole[:, 0, 0], colours[1], atol=1e-6)
    np.testing.assert_allclose(whole[:, 1, 0], colours[1], atol=1e-6)
    np.testing.assert_allclose(whole[:, 0, 1], 0.75 * colours[3], atol=1e-6)  # brightness of the sum
    np.testing.assert_array_equal(whole[:, 1, 1], 0)  # nobody paints there
    assert plots.tint(elements(), threshold=0.8)[1][:, 0, 1].max() == 0  # too dark
    np.testing.assert_allclose(panels[0, :, 0, 1], 0.25 * colours[0], atol=1e-6)
    assert panels[2].sum() == 0


def test_element_colours_differ():
    colours = plots.element_colours(16)
    assert colours.shape == (16, 3) and colours.min() >= 0 and colours.max() <= 1
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=2)
    assert distance[~np.eye(16, dtype=bool)].min() > 0.05


def test_brighter_takes_each_image_by_itself_and_leaves_black():
    images = np.zeros((3, 3, 2, 2))
    images[0, 1] = [[0.4, 0.1], [0.0, 0.0]]
    images[1, 0, 0, 0] = 0.0125  # a trace: a quarter of what counts as a greatest value
    found = plots.brighter(images)
    np.testing.assert_allclose(found[0, 1], [[1, 0.5], [0, 0]])
    assert found[1, 0, 0, 0] == 0.5 and found[2].max() == 0


def test_sheet_places_images_row_by_row_between_lines():
    images = np.arange(6)[:, None, None, None] / 10 * np.ones((6, 3, 4, 5))
    page = plots.sheet(images, 3, gap=1, frame=1.0)
    assert page.shape == (3, 2 * 6, 3 * 7)
    for k in range(6):
        row, column = divmod(k, 3)
        tile = page[:, 6 * row : 6 * row + 6, 7 * column : 7 * column + 7]
        np.testing.assert_array_equal(tile[:, 1:-1, 1:-1], images[k])
        assert (tile[:, 0] == 1).all() and (tile[:, :, -1] == 1).all()
    with pytest.raises(ValueError, match="6 images do not fill rows of 4"):
        plots.sheet(images, 4)


def test_sheet_frames_each_image_in_its_colour():
    page = plots.sheet(np.zeros((4, 3, 2, 2)), 2, gap=1, frame=plots.element_colours(4))
    np.testing.assert_array_equal(page[:, 0, 0], plots.element_colours(4)[0])
    np.testing.assert_array_equal(page[:, -1, -1], plots.element_colours(4)[3])


def test_band_compares_curves_where_all_of_them_are():
    ax = plt.figure().subplots()
    plots.band(ax, [([0, 10], [0, 10]), ([2, 12], [4, 14])], colour="black", points=3)  # y = x and y = x + 2
    line = ax.get_lines()[0]
    np.testing.assert_allclose(line.get_xdata(), [2, 6, 10])
    np.testing.assert_allclose(line.get_ydata(), [3, 7, 11])
    edges = ax.collections[0].get_paths()[0].vertices
    assert {tuple(v) for v in np.round(edges, 6)} >= {(2, 2), (2, 4), (10, 10), (10, 12)}


def test_key_picture_and_samples_show_every_method_and_image():
    one, many = elements(), np.stack([elements()] * 3)
    image, images = one.sum(axis=0), many.sum(axis=1)
    fig = plots.key_picture(image, {"baseline": one, "srn": one}, images, {"baseline": many, "srn": many})
    assert len(fig.axes) == 5 + 3 * 3
    fig = plots.samples(torch.from_numpy(images), {"srn": (images, many)}, columns=2)
    assert len(fig.axes) == 3 * 3 and fig.axes[1].get_title() == "SRN"


def test_bytes_and_floats_show_the_same_picture():
    image = np.arange(48, dtype=np.uint8).reshape(3, 4, 4) * 5
    _, axes = plt.subplots(1, 2)
    for ax, picture in zip(axes, (image, image / 255), strict=True):
        plots.show(ax, picture)
    np.testing.assert_array_equal(*(ax.images[0].get_array() for ax in axes))
