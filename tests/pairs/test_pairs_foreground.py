import cv2
import numpy as np
import pytest

from dmdd.pairs import estimate_foreground


def ground(level: float = 190.0, side: int = 256) -> np.ndarray:
    """A plain ground with a vignette and sensor noise."""
    rng = np.random.default_rng(0)
    down, across = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    shade = level - 25 * (down**2 + across**2) + 10 * across
    return shade[..., None] + rng.normal(0, 2, (side, side, 3))


def as_image(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("colour", [(70, 70, 70), (20, 60, 180), (250, 250, 250)])
def test_finds_a_part_on_plain_ground(colour):
    pixels, true = ground(150), np.zeros((256, 256), np.uint8)
    cv2.ellipse(true, (120, 130), (70, 25), 30, 0, 360, 255, -1)
    pixels[true > 0] = np.array(colour) + np.random.default_rng(1).normal(0, 6, ((true > 0).sum(), 3))
    found = estimate_foreground(as_image(pixels))
    assert found[true > 0].mean() > 0.99
    # Grown by 3 px of the 256, and by the estimate's own pixel size.
    far = cv2.dilate(true, np.ones((17, 17), np.uint8)) == 0
    assert not found[far].any()


def test_a_hook_across_the_frame_does_not_matter():
    pixels = ground()
    pixels[100:200, 60:200] = (20, 60, 180)
    pixels[:110, 126:131] = 90
    found = estimate_foreground(as_image(pixels))
    assert found[105:195, 65:195].all()
    assert found.mean() < 0.3


def test_soft_shadow_is_not_part():
    pixels = ground()
    pixels[60:200, 150:180] -= 40
    pixels[60:200, 60:150] = 60
    found = estimate_foreground(as_image(pixels))
    assert found[65:195, 65:145].all()
    assert not found[65:195, 160:175].any()
    pixels[60:200, 180:230] -= 40  # as large as the part: then it may be a dull one, and a part too many does no harm
    found = estimate_foreground(as_image(pixels))
    assert found[65:195, 65:225].all()
    assert found.mean() < 0.5


def disc(pixels: np.ndarray, radius: int, colour: tuple[int, int, int]) -> np.ndarray:
    """Draw a disc in the middle and return where it is."""
    place = cv2.circle(np.zeros((256, 256), np.uint8), (128, 128), radius, 255, -1) > 0
    pixels[place] = colour
    return place


def test_a_dull_part_with_bright_pieces_is_found_whole():
    """A cable: bare copper stands out most, but most of the cable is its jacket."""
    pixels = ground(130)
    jacket = disc(pixels, 100, (60, 60, 62))
    disc(pixels, 45, (225, 190, 160))
    found = estimate_foreground(as_image(pixels))
    assert found[jacket].mean() > 0.99
    assert found.mean() < 1.2 * jacket.mean()


def test_the_dark_side_of_a_part_on_black_is_no_shadow():
    """A nut that is lit from one side."""
    down, across = (np.mgrid[:256, :256] - 128) / 90
    nut = across**2 + down**2 < 1
    depth = np.sqrt(np.clip(1 - across**2 - down**2, 0, 1))
    light = 0.3 + 0.7 * np.clip(0.75 * depth - 0.4 * across - 0.5 * down, 0, 1)
    pixels = np.where(nut[..., None], light[..., None] * np.array((170, 110, 60)), 15)
    found = estimate_foreground(as_image(pixels + np.random.default_rng(0).normal(0, 2, pixels.shape)))
    assert found[nut].mean() > 0.99
    assert found.mean() < 1.1 * nut.mean()


@pytest.mark.parametrize(("radius", "counts"), [(60, True), (20, False)])
def test_a_face_as_bright_as_the_ground_is_part_but_a_bore_is_not(radius, counts):
    pixels = ground()
    bottle = disc(pixels, 100, (30, 25, 20))
    plain = ground()
    face = disc(plain, radius, (0, 0, 0))
    pixels[face] = ground()[face]
    found = estimate_foreground(as_image(pixels))
    assert found[bottle & ~face].mean() > 0.99
    assert found[face].all() == counts
    assert found[128, 128] == counts


@pytest.mark.parametrize("across", [True, False])
def test_a_band_from_side_to_side_is_no_part(across):
    """A dark grain of wood."""
    pixels = ground()
    pixels[100:140] -= 60
    image = as_image(pixels)
    assert estimate_foreground(image if across else np.ascontiguousarray(image.transpose(1, 0, 2))).all()
    pixels[:, 200:] = ground()[:, 200:]  # it ends: a part that is held from one side
    image = as_image(pixels)
    assert not estimate_foreground(image if across else np.ascontiguousarray(image.transpose(1, 0, 2))).all()


@pytest.mark.parametrize("kind", ["noise", "stripes", "smooth", "checks", "black"])
def test_textures_count_as_a_whole(kind):
    rng = np.random.default_rng(0)
    across = np.arange(256)
    pixels = {
        "noise": rng.uniform(0, 255, (256, 256)),
        "stripes": np.broadcast_to(127 + 90 * np.sin(across / 5), (256, 256)),
        "smooth": ground()[..., 0],
        "checks": 200.0 * ((across[:, None] // 16 + across // 16) % 2),
        "black": np.zeros((256, 256)),
    }[kind]
    assert estimate_foreground(as_image(np.repeat(pixels[..., None], 3, axis=2))).all()


def test_keeps_the_size_of_any_image():
    assert estimate_foreground(np.zeros((30, 77, 3), np.uint8)).shape == (30, 77)


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)])
def test_refuses_other_arrays(image):
    with pytest.raises(ValueError, match=r"image must be \(H, W, 3\) uint8"):
        estimate_foreground(image)


@pytest.mark.parametrize(
    ("folder", "least", "most"), [("mvtec_ad/screw/train/good", 0.08, 0.25), ("mpdd/metal_plate/train/good", 0.15, 0.6)]
)
def test_real_parts_are_found(real_data, folder, least, most):
    paths = sorted((real_data / folder).glob("*.png"))[:40]
    assert paths, f"no images in {folder}"
    shares = [estimate_foreground(cv2.imread(str(path))).mean() for path in paths]
    assert least < min(shares)
    assert max(shares) < most


def test_real_textures_count_as_a_whole(real_data):
    paths = sorted((real_data / "dtd" / "images").glob("*/*.jpg"))
    assert len(paths) >= 100
    cut = [path.name for path in paths if not estimate_foreground(cv2.imread(str(path))).all()]
    assert cut == []


@pytest.mark.parametrize(("category", "least"), [("mvtec_ad/screw", 0.9), ("mpdd/metal_plate", 0.97)])
def test_real_defects_lie_on_the_estimated_foreground(real_data, category, least):
    shares = []
    for path in sorted((real_data / category / "ground_truth").glob("*/*_mask.png"))[::3]:
        image = real_data / category / "test" / path.parent.name / path.name.replace("_mask", "")
        defect = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0
        shares.append(estimate_foreground(cv2.imread(str(image)))[defect].mean())
    assert np.mean(shares) > least
