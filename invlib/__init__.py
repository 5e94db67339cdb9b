"""Invertible residual networks as Bayesian point estimators: the library of the book.

Each module names the pages of `book/` that derive what it computes.
"""

from invlib.ascent import ConvergenceError, maximize
from invlib.bayes import (
    MapSolution,
    NotSecuredWarning,
    data_distribution,
    log_evidence,
    map_curvature,
    map_estimate,
    map_solution,
    measurement_distribution,
    posterior_covariance,
    posterior_mean,
    posterior_moments,
)
from invlib.convolution import ConvIResNet
from invlib.dense import IResNet
from invlib.inverse import InverseSolution, InversionError
from invlib.losses import approximation_loss, divergence_loss, log_det_loss, reconstruction_loss
from invlib.networks import InvertibleNetwork
from invlib.priors import DensityPrior, GaussianMixture, LogisticPrior, Prior
from invlib.problems import LinearProblem
from invlib.quadrature import QuadratureError
from invlib.training import History, TrainingError, train

__all__ = [
    "ConvIResNet",
    "ConvergenceError",
    "DensityPrior",
    "GaussianMixture",
    "History",
    "IResNet",
    "InverseSolution",
    "InvertibleNetwork",
    "InversionError",
    "LinearProblem",
    "LogisticPrior",
    "MapSolution",
    "NotSecuredWarning",
    "Prior",
    "QuadratureError",
    "TrainingError",
    "approximation_loss",
    "data_distribution",
    "divergence_loss",
    "log_det_loss",
    "log_evidence",
    "map_curvature",
    "map_estimate",
    "map_solution",
    "maximize",
    "measurement_distribution",
    "posterior_covariance",
    "posterior_mean",
    "posterior_moments",
    "reconstruction_loss",
    "train",
]
__version__ = "0.1.0"
