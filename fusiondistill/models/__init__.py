"""Networks by name: the CIFAR ResNets of the paper, and every classifier of torchvision; what is made of them."""

from fusiondistill.models.cifar_resnet import CifarResNet
from fusiondistill.models.classifier import Ensemble, ImageClassifier
from fusiondistill.models.network import FeatureNetwork
from fusiondistill.models.registry import build_model

__all__ = ["CifarResNet", "Ensemble", "FeatureNetwork", "ImageClassifier", "build_model"]
