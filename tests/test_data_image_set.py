"""ImageSet: selections, batches, statistics, pickling."""

import pickle

import numpy as np
import pytest
import torch

from fusiondistill.data import DataError, ImageSet, load_images


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSIONDISTILL_CACHE", str(tmp_path / "cache"))


def toy(labels, classes=None):
    """Images whose every value is their own number (mod 256)."""
    labels = torch.as_tensor(labels)
    images = torch.arange(len(labels)).remainder(256).to(torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    return ImageSet("toy", images.contiguous(), labels, classes or [str(i) for i in range(int(labels.max()) + 1)])


def uneven(seed=0):
    rng = np.random.default_rng(seed)
    return toy(np.repeat(np.arange(7), [1, 2, 3, 17, 40, 41, 100])[rng.permutation(204)])


def test_gather_gives_a_copy_of_exactly_those_images():
    images = toy([0, 1, 0, 1, 2])
    batch, labels = images.gather([4, 0, 4])
    assert batch.dtype == torch.uint8 and batch[:, 0, 0, 0].tolist() == [4, 0, 4]
    assert labels.dtype == torch.int64 and labels.tolist() == [2, 0, 2]
    batch.fill_(99)
    labels.fill_(99)
    assert images.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4] and images.labels.tolist() == [0, 1, 0, 1, 2]


def test_indices_count_within_the_selection():
    part = toy([0, 1, 2, 0, 1]).select(torch.tensor([3, 1, 4]))
    assert part.gather(torch.tensor([2, 0]))[0][:, 0, 0, 0].tolist() == [4, 3]
    assert part.select(torch.tensor([1])).positions.tolist() == [1]
    assert len(part) == 3 and part.images[:, 0, 0, 0].tolist() == [3, 1, 4] and part.labels.tolist() == [0, 1, 1]
    part.images.fill_(7)  # a copy
    assert part.images[:, 0, 0, 0].tolist() == [3, 1, 4]


@pytest.mark.parametrize("wrong", [[-1], [3], [0, 100]])
def test_an_index_outside_the_set_is_an_error(wrong):
    for images in (toy([0, 1, 2]), toy([0, 1, 2, 3, 4]).select(torch.tensor([0, 2, 4]))):
        with pytest.raises(IndexError):
            images.gather(wrong)
        with pytest.raises(IndexError):
            images.select(torch.tensor(wrong))


@pytest.mark.parametrize("fraction", [0.05, 0.1, 1 / 3, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_a_holdout_cuts_every_class_in_proportion(fraction, seed):
    images = uneven()
    train, validation = images.holdout(fraction, seed)
    assert sorted(train.positions.tolist() + validation.positions.tolist()) == list(range(204))
    assert train.positions.tolist() == sorted(train.positions.tolist())
    assert len(train) + len(validation) == 204 and abs(len(validation) - fraction * 204) <= 3
    for label in range(7):
        whole, held = (images.labels == label).sum().item(), (validation.labels == label).sum().item()
        assert abs(held - fraction * whole) < 1 + (whole == held) and held < whole
    assert torch.equal(images.labels[validation.positions], validation.labels)


def test_a_holdout_is_exact_for_even_classes():
    images = toy(np.tile(np.arange(10), 50))
    train, validation = images.holdout(0.1, 7)
    assert validation.labels.bincount().tolist() == [5] * 10 and train.labels.bincount().tolist() == [45] * 10
    assert len(toy(np.tile(np.arange(10), 50)).holdout(0.05, 7)[1]) == 25  # 2.5 a class: five give three


def test_a_holdout_is_a_function_of_the_seed_and_the_labels():
    def held(seed, fraction=0.2):
        return uneven().holdout(fraction, seed)[1].positions.tolist()

    assert held(3) == held(3) and len({tuple(held(seed)) for seed in range(20)}) == 20
    # Written down, so that a later version, another machine or another torch cannot cut differently unnoticed.
    assert toy([0, 1] * 10).holdout(0.2, 0)[1].positions.tolist() == [2, 5, 11, 14]
    # Every image is held out by some seed: nothing is fixed but the share.
    often = torch.zeros(20)
    for seed in range(200):
        often[toy([0, 1] * 10).holdout(0.2, seed)[1].positions] += 1
    assert often.min() > 15 and often.max() < 75


def test_a_holdout_of_a_selection_stays_inside_it():
    part = uneven().take(60)
    train, validation = part.holdout(0.25, 0)
    assert sorted(train.positions.tolist() + validation.positions.tolist()) == sorted(part.positions.tolist())
    assert set(validation.positions.tolist()) <= set(part.positions.tolist())


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, 0.0001, float("nan")])
def test_a_holdout_that_makes_no_sense_is_refused(fraction):
    with pytest.raises(DataError, match=r"held out|hold out"):
        uneven().holdout(fraction, 0)


def test_take_goes_round_the_classes():
    images = uneven()
    seen: dict[int, int] = {}
    ranked = []
    for row, label in enumerate(images.labels.tolist()):
        seen[label] = seen.get(label, -1) + 1
        ranked.append((seen[label], label, row))
    expected = [row for _, _, row in sorted(ranked)]
    for n in (1, 5, 7, 60, 204):
        assert images.take(n).positions.tolist() == expected[:n]
    assert images.take(60).take(10).positions.tolist() == expected[:10]
    for n in (0, -1, 205):
        with pytest.raises(DataError, match="cannot take"):
            images.take(n)


def test_mean_and_std_are_those_of_the_pixels():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3000, 3, 4, 5), dtype=np.uint8)
    images = ImageSet("x", torch.from_numpy(pixels), torch.zeros(3000, dtype=torch.int64), ["only"])
    flat = pixels.astype(np.float64).transpose(1, 0, 2, 3).reshape(3, -1)
    np.testing.assert_allclose(images.mean, flat.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(images.std, flat.std(axis=1), rtol=1e-12)
    assert images.take(5).mean == images.mean  # of the whole, not of the selection


def test_the_test_split_is_normalised_like_the_training_split():
    train, test = load_images("digits", "train"), load_images("digits", "test")
    assert test.mean == train.mean == load_images("digits", "test").mean
    flat = train.images.to(torch.float64)
    np.testing.assert_allclose(test.mean, flat.mean(dim=(0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(test.std, flat.transpose(0, 1).reshape(3, -1).std(dim=1, correction=0), rtol=1e-9)


def test_a_pickle_is_an_address(tmp_path, monkeypatch):
    part = load_images("digits", "train").take(50)
    message = pickle.dumps(part)
    again = pickle.loads(message)
    assert len(message) < 3000
    assert torch.equal(again.images, part.images) and again.fingerprint == part.fingerprint and not again.flip
    whole = load_images("digits", "train")
    whole._whole_fingerprint = "0" * 64  # as if the sender had other files
    with pytest.raises(DataError, match="same data"):
        pickle.loads(pickle.dumps(whole))


def test_a_set_of_ones_own_tensors_pickles_whole():
    images = toy([0, 1, 2, 1])
    again = pickle.loads(pickle.dumps(images.take(3)))
    assert torch.equal(again.images, images.take(3).images) and again.fingerprint == images.take(3).fingerprint
    assert again.mean == images.mean and toy([0, 1, 2, 2]).fingerprint != images.fingerprint


@pytest.mark.parametrize(
    "images, labels",
    [
        (torch.zeros(4, 3, 2, 2), torch.zeros(4, dtype=torch.int64)),
        (torch.zeros(4, 2, 2, 3, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)),
        (torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.zeros(4)),
    ],
)
def test_tensors_of_another_kind_are_refused(images, labels):
    with pytest.raises(DataError, match="must be"):
        ImageSet("x", images, labels, ["a"])
