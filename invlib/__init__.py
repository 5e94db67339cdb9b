"""Invertible residual networks as Bayesian point estimators: the library of the book.

Each module names the pages of `book/` that derive what it computes.
"""

from invlib.ascent import ConvergenceError
from invlib.bayes import (
    data_distribution,
    log_evidence,
    map_curvature,
    map_estimate,
    measurement_distribution,
    posterior_covariance,
    posterior_mean,
)
from invlib.convolution import ConvIResNet
from invlib.dense import IResNet
from invlib.inverse import InverseSolution, InversionError
from invlib.log_det_minimizer import LogDetMinimizer
from invlib.losses import approximation_loss, divergence_loss, log_det_loss, reconstruction_loss
from invlib.networks import InvertibleNetwork
from invlib.priors import DensityPrior, GaussianMixture, LogisticPrior, two_bumps
from invlib.problems import LinearProblem, epsilon_problem
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
    "LogDetMinimizer",
    "LogisticPrior",
    "QuadratureError",
    "TrainingError",
    "approximation_loss",
    "data_distribution",
    "divergence_loss",
    "epsilon_problem",
    "log_det_loss",
    "log_evidence",
    "map_curvature",
    "map_estimate",
    "measurement_distribution",
    "posterior_covariance",
    "posterior_mean",
    "reconstruction_loss",
    "train",
    "two_bumps",
]
__version__ = "0.1.0"
