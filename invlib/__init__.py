"""Invertible residual networks as Bayesian point estimators: the library of the book.

Each module names the pages of `book/` that derive what it computes. Three contracts keep it open, each described in one
place: a *network* in `invlib.networks`, a *block* of a residual network in `invlib.blocks`, a *prior* in
`invlib.priors`.

*Precision.* Results have the dtype of the points given. Priors and the exact estimators compute in float64; a network
computes in the wider of the dtypes of points and parameters, and its inverse in float64. So what a problem or a prior
returns can be given to any network. Half precision is refused.
"""

from invlib.activations import Activation
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
from invlib.blocks import AffineBlock, Block, ResidualBlock
from invlib.convolution import ConvIResNet, convolution_norm
from invlib.dense import IResNet
from invlib.error_bars import CovarianceError, Reconstruction, reconstruct
from invlib.errors import DifferentiatedTwiceError
from invlib.history import History, TrainingError, TrainingStep
from invlib.inverse import InverseSolution, InversionError
from invlib.losses import (
    approximation_loss,
    divergence_loss,
    log_det_loss,
    reconstruction_loss,
)
from invlib.networks import InvertibleNetwork
from invlib.optimizers import SOAP
from invlib.priors import DensityPrior, GaussianMixture, LogisticPrior, Prior
from invlib.problems import LinearProblem
from invlib.quadrature import QuadratureError
from invlib.residual import LogDetEstimate, ResidualNetwork
from invlib.samples import Samples
from invlib.sampling import QuasiRandom, Sampler, quasi_sample, quasi_uniform
from invlib.standard import StandardVariables
from invlib.targets import ReachWarning
from invlib.training import minimize, train

__all__ = [
    "SOAP",
    "Activation",
    "AffineBlock",
    "Block",
    "ConvIResNet",
    "ConvergenceError",
    "CovarianceError",
    "DensityPrior",
    "DifferentiatedTwiceError",
    "GaussianMixture",
    "History",
    "IResNet",
    "InverseSolution",
    "InversionError",
    "InvertibleNetwork",
    "LinearProblem",
    "LogDetEstimate",
    "LogisticPrior",
    "MapSolution",
    "NotSecuredWarning",
    "Prior",
    "QuadratureError",
    "QuasiRandom",
    "ReachWarning",
    "Reconstruction",
    "ResidualBlock",
    "ResidualNetwork",
    "Sampler",
    "Samples",
    "StandardVariables",
    "TrainingError",
    "TrainingStep",
    "approximation_loss",
    "convolution_norm",
    "data_distribution",
    "divergence_loss",
    "log_det_loss",
    "log_evidence",
    "map_curvature",
    "map_estimate",
    "map_solution",
    "maximize",
    "measurement_distribution",
    "minimize",
    "posterior_covariance",
    "posterior_mean",
    "posterior_moments",
    "quasi_sample",
    "quasi_uniform",
    "reconstruct",
    "reconstruction_loss",
    "train",
]
__version__ = "0.2.0"
