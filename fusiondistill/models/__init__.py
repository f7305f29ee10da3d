"""Networks that hand out features, and the classifiers that are made of them."""

from fusiondistill.models.build import build_model
from fusiondistill.models.cifar_resnet import CifarResNet
from fusiondistill.models.classifier import Ensemble, ImageClassifier, SoftVote
from fusiondistill.models.network import FeatureNetwork

__all__ = ["CifarResNet", "Ensemble", "FeatureNetwork", "ImageClassifier", "SoftVote", "build_model"]
