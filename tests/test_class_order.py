"""Classes that differ in their order or as a set: matched by name, or named."""

import numpy as np
import pytest
import torch

from fusiondistill.data import DataError
from fusiondistill.data.class_names import difference, order_of, permutation
from fusiondistill.data.corruptions import check_corruptions
from fusiondistill.models.build import build_model
from fusiondistill.models.class_order import reordered


@pytest.mark.parametrize("name", ["cifar_resnet8", "resnet18", "mobilenet_v3_small", "squeezenet1_1"])
def test_outputs_follow_the_names(name):
    torch.manual_seed(0)
    given, ours = ["a", "b", "c"], ["c", "a", "b"]
    network, images = build_model(name, 3).eval(), torch.randn(2, 3, 32, 32)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        before = network(images)
        found = reordered(network, state, permutation(given, ours), (32, 32))
        network.load_state_dict(found)
        after = network(images)
    for place, cls in enumerate(given):
        torch.testing.assert_close(after[:, ours.index(cls)], before[:, place])


def test_outputs_that_come_from_elsewhere_are_noticed():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 3)

        def forward(self, images):
            return self.layer(images.mean((2, 3))) * torch.tensor([1.0, 2.0, 3.0])

    odd = Odd()
    assert reordered(odd, odd.state_dict(), [1, 2, 0], (4, 4)) is None


@pytest.mark.parametrize(
    "given, words",
    [
        (["a", "c"], "has 'c' and lacks 'b'"),
        (["a"], "1 class, not 2: it lacks 'b'"),
        (["b", "a"], "another order: class 0 is 'b' instead of 'a'"),
        ([str(i) for i in range(50)], "and 40 more"),
    ],
)
def test_differences_are_named(given, words):
    assert words in difference(given, ["a", "b"])
    if permutation(given, ["a", "b"]) is None:
        with pytest.raises(DataError, match="other classes than here"):
            order_of(given, ["a", "b"], "there", "here")


def test_two_spellings_of_an_accent_are_one_name():
    assert permutation(["cafe\u0301", "b"], ["b", "caf\u00e9"]) == [1, 0]


def corruptions(folder, labels):
    np.save(folder / "fog.npy", np.zeros((5 * len(labels), 4, 4, 3), np.uint8))
    np.save(folder / "labels.npy", np.tile(labels, 5))
    return folder


def test_a_corruption_set_with_the_classes_in_another_order(tmp_path):
    ours = torch.tensor([0, 1, 2, 2, 1, 0])
    check_corruptions(corruptions(tmp_path, ours.numpy()), 3, None, ours)
    check_corruptions(corruptions(tmp_path, np.array([2, 1, 2, 1, 0, 0])), 3, None, ours)  # other images
    with pytest.raises(DataError, match=r"another order.*0 is 1, 1 is 2, 2 is 0"):
        check_corruptions(corruptions(tmp_path, np.array([2, 0, 1, 1, 0, 2])), 3, None, ours)
