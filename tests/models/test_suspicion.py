"""Images given as good that are like none of the others."""

import torch

from dmdd.models.detector import Detector
from dmdd.models.suspicion import SUSPICIOUS, _distances, _known, strangeness
from tiny import save_tiny_model


def test_an_image_of_another_kind_is_the_strangest(tmp_path):
    detector = Detector.load(save_tiny_model(tmp_path))
    generator = torch.Generator().manual_seed(0)
    images = 100 + torch.randint(0, 20, (12, 3, 64, 96), dtype=torch.uint8, generator=generator)
    images[7, :, 10:50, 20:70] = 255 * (torch.arange(40).view(1, -1, 1) % 8 < 4)
    found = strangeness(detector, images, batch_size=5)
    assert found.shape == (12,)
    assert int(found.argmax()) == 7
    assert float(found[7]) > SUSPICIOUS
    others = found[torch.arange(12) != 7]
    assert float(others.median().abs()) < 1
    # Two of a kind do not make each other usual.
    images[3] = images[7]
    again = strangeness(detector, images, batch_size=5)
    assert set(again.argsort(descending=True)[:2].tolist()) == {3, 7}


def test_images_of_several_categories_are_compared_with_their_own(tmp_path):
    detector = Detector.load(save_tiny_model(tmp_path))
    generator = torch.Generator().manual_seed(0)
    images = 100 + torch.randint(0, 20, (18, 3, 64, 96), dtype=torch.uint8, generator=generator)
    images[1::3] = torch.randint(0, 255, (6, 3, 64, 96), dtype=torch.uint8, generator=generator)  # alike, but rough
    images[4, :, 10:50, 20:70] = 255
    kinds = ["smooth", "rough", "smooth"] * 6
    found = strangeness(detector, images, batch_size=5, kinds=kinds)
    for kind in ("smooth", "rough"):
        rows = torch.tensor([place for place, own in enumerate(kinds) if own == kind])
        assert torch.allclose(found[rows], strangeness(detector, images[rows], batch_size=5), atol=1e-4)
    assert int(found.argmax()) == 4
    assert found[1::3].median() < 1
    # Among all, every rough one would be strange.
    assert strangeness(detector, images, batch_size=5)[1::3].min() > SUSPICIOUS


def test_bad_images_that_resemble_each_other_are_found_once_the_strangest_is_left_out():
    """The last four find three like them, at nearly a good image's distance; without the strangest they find two."""
    generator = torch.Generator().manual_seed(0)
    among = (0.02 * torch.randn(20, 20, 1, generator=generator).clamp(-1, 1)).exp()
    among[16:, :16] = 1.5
    among[16, 17:], among[17:, 16:] = 1.2, 1.01
    assert _known(among).tolist() == 16 * [True] + 4 * [False]


def test_distances_are_those_of_a_search():
    generator = torch.Generator().manual_seed(0)
    patches, references = torch.rand(5, 7, generator=generator), torch.rand(3, 6, 7, generator=generator)
    by_hand = torch.stack([torch.cdist(patches, other).amin(1) for other in references])
    assert torch.allclose(_distances(patches, references), by_hand, atol=1e-5)


def test_too_few_images_say_nothing(tmp_path):
    detector = Detector.load(save_tiny_model(tmp_path))
    assert strangeness(detector, torch.zeros(4, 3, 64, 96, dtype=torch.uint8), batch_size=2).tolist() == [0] * 4
