"""Bad input to any public name is a ValueError or a TypeError that names the argument; nothing else may leak out."""

from collections.abc import Callable

import numpy as np
import oracles
import pytest
import torch

import invlib
from invlib import DensityPrior, GaussianMixture, IResNet, LinearProblem, LogisticPrior, Prior
from invlib.activations import Activation
from invlib.testproblems import epsilon_problem, two_bumps

NAN, INF = float("nan"), float("inf")
F64 = torch.float64
EYE = torch.eye(2, dtype=F64)
X = torch.zeros(4, 2, dtype=F64)
PRIOR = GaussianMixture([1.0], [[0.0, 0.0]], EYE[None])
LOGISTIC = LogisticPrior([1.0, 1.0])
DENSITY = DensityPrior(lambda x: -x.square().sum(-1), [-7.0, -7.0], [7.0, 7.0])
PRIOR_1D = GaussianMixture([1.0], [[0.0]], [[[1.0]]])
PRIOR_3D = GaussianMixture([1.0], [[0.0] * 3], torch.eye(3)[None])
PROBLEM = LinearProblem(EYE, 0.5)
PROBLEM_3D = LinearProblem(torch.eye(3), 0.5)
NET = oracles.random_network(2, seed=0)
ENSEMBLE = oracles.random_network(2, seed=0, members=3)
XE = torch.zeros(3, 4, 2, dtype=F64)


BAD_METRICS = {
    "not symmetric": torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=F64),
    "negative": -EYE,
    "zero": 0 * EYE,
    "indefinite": torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=F64),
    "singular": torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=F64),
    "nan": NAN * EYE,
    "infinite": torch.diag(torch.tensor([1.0, INF], dtype=F64)),
    "of half precision": EYE.half(),
    "of integers": EYE.long(),
    "of another size": torch.eye(3, dtype=F64),
    "on another device": EYE.to("meta"),
    "list": EYE.tolist(),
    "number": 1.0,
}


class Sampler:
    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> torch.Tensor:
        return torch.zeros(*[count if size < 0 else size for size in self.shape])


def train(net: object = NET, problem: object = PROBLEM, prior: object = PRIOR, **options: object) -> object:
    options = {"loss": "divergence", "steps": 1, "batch_size": 4, "generator": oracles.generator(0), **options}
    return invlib.train(net, problem, prior, **options)


CASES: dict[str, tuple[str, Callable[[], object]]] = {
    # GaussianMixture
    "weights negative": ("weights", lambda: GaussianMixture([-0.5, 1.5], [[0.0], [1.0]], [[[1.0]]] * 2)),
    "weights zero": ("weights", lambda: GaussianMixture([0.0, 1.0], [[0.0], [1.0]], [[[1.0]]] * 2)),
    "weights sum": ("weights", lambda: GaussianMixture([0.5, 0.4], [[0.0], [1.0]], [[[1.0]]] * 2)),
    "weights matrix": ("weights", lambda: GaussianMixture([[1.0]], [[0.0]], [[[1.0]]])),
    "weights empty": ("weights", lambda: GaussianMixture([], [[0.0]], [[[1.0]]])),
    "weights nan": ("weights", lambda: GaussianMixture([NAN], [[0.0]], [[[1.0]]])),
    "weights text": ("weights", lambda: GaussianMixture("abc", [[0.0]], [[[1.0]]])),
    "weights none": ("weights", lambda: GaussianMixture(None, [[0.0]], [[[1.0]]])),
    "means flat": ("means", lambda: GaussianMixture([1.0], [0.0], [[[1.0]]])),
    "means count": ("means", lambda: GaussianMixture([1.0], [[0.0], [1.0]], [[[1.0]]])),
    "means no columns": ("means", lambda: GaussianMixture([1.0], [[]], [[[1.0]]])),
    "means infinite": ("means", lambda: GaussianMixture([1.0], [[INF]], [[[1.0]]])),
    "means ragged": ("means", lambda: GaussianMixture([0.5, 0.5], [[0.0], [1.0, 2.0]], [[[1.0]]] * 2)),
    "means complex": ("means", lambda: GaussianMixture([1.0], torch.zeros(1, 1, dtype=torch.complex128), [[[1.0]]])),
    "covariances shape": ("covariances", lambda: GaussianMixture([1.0], [[0.0, 0.0]], [[[1.0]]])),
    "covariances flat": ("covariances", lambda: GaussianMixture([1.0], [[0.0]], [1.0])),
    "covariances asymmetric": ("covariances", lambda: GaussianMixture([1.0], X[:1], [[[1.0, 0.5], [0.0, 1.0]]])),
    "covariances indefinite": ("covariances", lambda: GaussianMixture([1.0], X[:1], [[[1.0, 2.0], [2.0, 1.0]]])),
    "covariances singular": ("covariances", lambda: GaussianMixture([1.0], X[:1], [[[1.0, 0.0], [0.0, 0.0]]])),
    "covariances nan": ("covariances", lambda: GaussianMixture([1.0], [[0.0]], [[[NAN]]])),
    "sample zero": ("count", lambda: PRIOR.sample(0)),
    "sample negative": ("count", lambda: PRIOR.sample(-1)),
    "sample float": ("count", lambda: PRIOR.sample(2.5)),
    "sample bool": ("count", lambda: PRIOR.sample(True)),
    "from_uniform columns": ("uniform", lambda: PRIOR.from_uniform(torch.full((4, 2), 0.5))),
    "from_uniform zero": ("uniform", lambda: PRIOR.from_uniform(torch.zeros(4, 3))),
    "from_uniform one": ("uniform", lambda: PRIOR.from_uniform(torch.ones(4, 3))),
    "from_uniform nan": ("uniform", lambda: PRIOR.from_uniform(torch.full((4, 3), NAN))),
    **{
        f"{method} {kind}": ("x", lambda method=method, bad=bad: getattr(PRIOR, method)(bad))
        for method in ("log_prob", "score", "hessian")
        for kind, bad in {
            "columns": torch.zeros(4, 3),
            "scalar": torch.tensor(0.0),
            "integers": torch.zeros(4, 2, dtype=torch.long),
            "list": [[0.0, 0.0]],
            "array": np.zeros((4, 2)),
            "nan": torch.full((4, 2), NAN),
        }.items()
    },
    **{
        f"{method} {kind} of {type(prior).__name__}": (
            "x",
            lambda method=method, bad=bad, prior=prior: getattr(prior, method)(bad),
        )
        for prior in (LOGISTIC, DENSITY)
        for method in ("log_prob", "score", "hessian")
        for kind, bad in {
            "columns": torch.zeros(4, 3),
            "integers": torch.zeros(4, 2, dtype=torch.long),
            "list": [[0.0, 0.0]],
            "nan": torch.full((4, 2), NAN),
        }.items()
    },
    **{
        f"from_uniform {kind} of {type(prior).__name__}": (
            "uniform",
            lambda bad=bad, prior=prior: prior.from_uniform(bad),
        )
        for prior in (LOGISTIC, DENSITY)
        for kind, bad in {
            "columns": torch.full((4, 2), 0.5),
            "zero": torch.zeros(4, 3),
            "one": torch.ones(4, 3),
            "nan": torch.full((4, 3), NAN),
        }.items()
    },
    **{
        f"sample {count} of {type(prior).__name__}": ("count", lambda count=count, prior=prior: prior.sample(count))
        for prior in (LOGISTIC, DENSITY)
        for count in (0, 2.5)
    },
    "scales zero": ("scales", lambda: LogisticPrior([1.0, 0.0])),
    "scales negative": ("scales", lambda: LogisticPrior([-1.0])),
    "scales scalar": ("scales", lambda: LogisticPrior(1.0)),
    "scales matrix": ("scales", lambda: LogisticPrior([[1.0]])),
    "scales empty": ("scales", lambda: LogisticPrior([])),
    "scales nan": ("scales", lambda: LogisticPrior([NAN])),
    "box upside down": ("lower must be below upper", lambda: DensityPrior(DENSITY.log_density, [1.0], [-1.0])),
    "box empty": ("lower must be below upper", lambda: DensityPrior(DENSITY.log_density, [-1.0, 2.0], [1.0, 2.0])),
    "box of different corners": ("lower", lambda: DensityPrior(DENSITY.log_density, [-1.0], [1.0, 1.0])),
    "box of three dimensions": ("lower", lambda: DensityPrior(DENSITY.log_density, [-9.0] * 3, [9.0] * 3)),
    "box of no dimension": ("lower", lambda: DensityPrior(DENSITY.log_density, -9.0, 9.0)),
    "box nan": ("lower", lambda: DensityPrior(DENSITY.log_density, [NAN], [9.0])),
    "box infinite": ("upper", lambda: DensityPrior(DENSITY.log_density, [-9.0], [INF])),
    "box text": ("upper", lambda: DensityPrior(DENSITY.log_density, [-9.0], "far")),
    "box that cuts": ("lower and upper", lambda: DensityPrior(DENSITY.log_density, [-1.0], [1.0])),
    "score no function": ("score", lambda: Prior.from_log_density(2, DENSITY.log_density, score=X)),
    "sample no function": ("sample", lambda: Prior.from_log_density(2, DENSITY.log_density, sample=3)),
    "distribution of another kind": ("distribution must be a torch", lambda: Prior.from_distribution(PRIOR)),
    "epsilon_problem epsilon": ("epsilon", lambda: epsilon_problem(0.0, 0.1)),
    "epsilon_problem noise_std": ("noise_std", lambda: epsilon_problem(0.5, -0.1)),
    "epsilon_problem angle": ("angle", lambda: epsilon_problem(0.5, 0.1, angle=float("nan"))),
    "two_bumps centre": ("centre", lambda: two_bumps("here")),
    "two_bumps centre scalar": ("centre", lambda: two_bumps(0.8)),
    "two_bumps centre matrix": ("centre", lambda: two_bumps([[0.8, 0.5]])),
    "two_bumps std": ("std", lambda: two_bumps(std=0.0)),
    # LinearProblem
    "operator flat": ("operator", lambda: LinearProblem([1.0, 2.0], 0.1)),
    "operator empty": ("operator", lambda: LinearProblem(torch.zeros(0, 2), 0.1)),
    "operator nan": ("operator", lambda: LinearProblem([[NAN]], 0.1)),
    "operator complex list": ("operator", lambda: LinearProblem([[1j]], 0.1)),
    "operator complex tensor": ("operator", lambda: LinearProblem(torch.eye(2, dtype=torch.complex128), 0.1)),
    "operator complex array": ("operator", lambda: LinearProblem(np.eye(2, dtype=complex), 0.1)),
    "noise_std zero": ("noise_std", lambda: LinearProblem([[1.0]], 0.0)),
    "noise_std negative": ("noise_std", lambda: LinearProblem([[1.0]], -1.0)),
    "noise_std nan": ("noise_std", lambda: LinearProblem([[1.0]], NAN)),
    "noise_std infinite": ("noise_std", lambda: LinearProblem([[1.0]], INF)),
    "noise_std text": ("noise_std", lambda: LinearProblem([[1.0]], "small")),
    "noise_std vector": ("noise_std", lambda: LinearProblem([[1.0]], [0.1, 0.2])),
    "forward columns": ("x", lambda: PROBLEM.forward(torch.zeros(4, 3))),
    "forward nan": ("x", lambda: PROBLEM.forward(torch.full((2,), NAN))),
    "measure columns": ("x", lambda: PROBLEM.measure(torch.zeros(4, 3))),
    "measure integers": ("x", lambda: PROBLEM.measure(torch.zeros(4, 2, dtype=torch.long))),
    "normal_data columns": ("y", lambda: PROBLEM.normal_data(torch.zeros(4, 3))),
    "normal_data list": ("y", lambda: PROBLEM.normal_data([0.0, 0.0])),
    **{
        f"noise_std {bad!r:.20}": ("noise_std", lambda bad=bad: LinearProblem([[1.0]], bad))
        for bad in (True, "0.1", 1j, None, 10**400, 1e160, 1e-300, np.bool_(True), np.str_("1"), torch.tensor(True))
    },
    **{
        f"operator {kind}": ("operator", lambda bad=bad: LinearProblem(bad, 0.1))
        for kind, bad in {
            "huge": [[1e200]],
            "tiny": [[1e-200]],
            "true": [[True]],
            "mixed with true": [[True, 0.5]],
            "text": [["1"]],
            "masked": np.ma.masked_array(np.eye(2), mask=np.eye(2)),
            "half": torch.eye(2).half(),
            "half array": np.eye(2, dtype=np.float16),
            "device": torch.eye(2, device="meta"),
            "sparse": torch.eye(2).to_sparse(),
        }.items()
    },
    "scales huge": ("scales", lambda: LogisticPrior([1e308])),
    "covariances huge": ("covariances", lambda: GaussianMixture([1.0], [[0.0]], [[[1e200]]])),
    "means huge": ("means", lambda: GaussianMixture([1.0], [[1e150]], [[[1.0]]])),
    "epsilon huge": ("epsilon", lambda: epsilon_problem(1e300, 0.1)),
    "epsilon tiny": ("epsilon", lambda: epsilon_problem(1e-300, 0.1)),
    "epsilon true": ("epsilon", lambda: epsilon_problem(True, 0.1)),
    "angle list": ("angle", lambda: epsilon_problem(0.5, 0.1, angle=[1, 2])),
    "angle text": ("angle", lambda: epsilon_problem(0.5, 0.1, angle="40")),
    "angle true": ("angle", lambda: epsilon_problem(0.5, 0.1, angle=True)),
    "two_bumps centre empty": ("centre", lambda: two_bumps([])),
    "two_bumps std true": ("std", lambda: two_bumps(std=True)),
    "map_estimate local": ("local", lambda: invlib.map_estimate(PROBLEM, PRIOR, X, local="yes")),
    # bayes
    **{
        f"{estimator.__name__} {kind} {type(prior).__name__}": (
            name,
            lambda estimator=estimator, problem=problem, prior=prior, bad=bad: estimator(problem, prior, bad),
        )
        for estimator in (
            invlib.posterior_mean,
            invlib.posterior_covariance,
            invlib.map_estimate,
            invlib.log_evidence,
        )
        for prior in (PRIOR, LOGISTIC, DENSITY)
        for kind, (name, problem, bad) in {
            "columns of": ("z", PROBLEM, torch.zeros(4, 3)),
            "regroupable columns of": ("z", PROBLEM, torch.zeros(4, 4)),
            "nan of": ("z", PROBLEM, torch.full((4, 2), NAN)),
            "list of": ("z", PROBLEM, [[0.0, 0.0]]),
            "problem dimension of": ("prior", PROBLEM_3D, torch.zeros(4, 3)),
            "half precision of": ("z", PROBLEM, torch.zeros(4, 2).half()),
            "huge data of": ("z", PROBLEM, torch.full((4, 2), 1e150, dtype=F64)),
            "another device of": ("z", PROBLEM, torch.zeros(4, 2, device="meta")),
        }.items()
    },
    **{
        f"{estimator.__name__} {kind}": (name, lambda estimator=estimator, a=arguments: estimator(*a))
        for estimator in (invlib.posterior_mean, invlib.posterior_covariance, invlib.map_estimate)
        for kind, (name, *arguments) in {
            "columns": ("z", PROBLEM, PRIOR, torch.zeros(4, 3)),
            "nan": ("z", PROBLEM, PRIOR, torch.full((4, 2), NAN)),
            "list": ("z", PROBLEM, PRIOR, [[0.0, 0.0]]),
            "range": ("z", LinearProblem([[1.0, 0.0]], 0.5), PRIOR, torch.ones(4, 2)),
            "prior dimension": ("prior", PROBLEM, PRIOR_3D, X),
        }.items()
    },
    "map_curvature columns": ("x", lambda: invlib.map_curvature(PROBLEM, PRIOR, torch.zeros(4, 3))),
    "map_curvature list": ("x", lambda: invlib.map_curvature(PROBLEM, PRIOR, [0.0, 0.0])),
    "map_curvature integers": ("x", lambda: invlib.map_curvature(PROBLEM, PRIOR, torch.zeros(2, dtype=torch.long))),
    "map_curvature prior dimension": ("prior", lambda: invlib.map_curvature(PROBLEM, PRIOR_1D, torch.zeros(4, 1))),
    "measurement_distribution": ("prior", lambda: invlib.measurement_distribution(PROBLEM, PRIOR_3D)),
    "data_distribution prior": ("prior", lambda: invlib.data_distribution(PROBLEM, PRIOR_3D)),
    "data_distribution rank": ("operator", lambda: invlib.data_distribution(LinearProblem([[1.0, 0.0]], 0.5), PRIOR)),
    # IResNet
    "dim zero": ("dim", lambda: IResNet(0)),
    "dim float": ("dim", lambda: IResNet(2.0)),
    "blocks zero": ("blocks", lambda: IResNet(2, blocks=0)),
    "width negative": ("width", lambda: IResNet(2, width=-3)),
    "lipschitz one": ("lipschitz", lambda: IResNet(2, lipschitz=1.0)),
    "lipschitz zero": ("lipschitz", lambda: IResNet(2, lipschitz=0.0)),
    "lipschitz nan": ("lipschitz", lambda: IResNet(2, lipschitz=NAN)),
    "lipschitz text": ("lipschitz", lambda: IResNet(2, lipschitz="large")),
    "members zero": ("members", lambda: IResNet(2, members=0)),
    "members float": ("members", lambda: IResNet(2, members=1.5)),
    "dtype integer": ("dtype", lambda: IResNet(2, dtype=torch.int64)),
    "dtype complex": ("dtype", lambda: IResNet(2, dtype=torch.complex64)),
    "dtype half": ("dtype", lambda: IResNet(2, dtype=torch.float16)),
    "dtype text": ("dtype", lambda: IResNet(2, dtype="float64")),
    **{
        f"{method} {kind}": (
            "z" if "inverse" in method else "x",
            lambda method=method, net=net, bad=bad: getattr(net, method)(bad),
        )
        for method in (
            "forward",
            "forward_and_jacobian",
            "forward_and_log_det",
            "forward_and_divergence",
            "estimate_divergence",
            "estimate_log_det",
            "inverse",
            "solve_inverse",
        )
        for kind, (net, bad) in {
            "of wrong columns": (NET, torch.zeros(4, 3, dtype=F64)),
            "of a scalar": (NET, torch.tensor(0.0, dtype=F64)),
            "of half precision": (NET, torch.zeros(4, 2, dtype=torch.float16)),
            "of bfloat16": (NET, torch.zeros(4, 2, dtype=torch.bfloat16)),
            "of complex numbers": (NET, torch.zeros(4, 2, dtype=torch.complex64)),
            "of integers": (NET, torch.zeros(4, 2, dtype=torch.long)),
            "on another device": (NET, torch.zeros(4, 2, device="meta")),
            "of a list": (NET, [[0.0, 0.0]]),
            "of wrong members": (ENSEMBLE, torch.zeros(2, 4, 2, dtype=F64)),
            "without members": (ENSEMBLE, torch.zeros(2, dtype=F64)),
        }.items()
    },
    "estimate_log_det terms": ("terms", lambda: NET.estimate_log_det(X, terms=0)),
    "estimate_log_det terms float": ("terms", lambda: NET.estimate_log_det(X, terms=2.5)),
    "output_operator shape": ("output_operator", lambda: IResNet(2, output_operator=torch.eye(3))),
    "output_operator flat": ("output_operator", lambda: IResNet(2, output_operator=[1.0, 1.0])),
    "output_operator singular": ("output_operator", lambda: IResNet(2, output_operator=[[1.0, 2.0], [2.0, 4.0]])),
    "output_operator zero": ("output_operator", lambda: IResNet(2, output_operator=torch.zeros(2, 2))),
    "output_operator nan": ("output_operator", lambda: IResNet(2, output_operator=[[1.0, NAN], [0.0, 1.0]])),
    "output_operator text": ("output_operator", lambda: IResNet(2, output_operator="A")),
    "output_operator members": (
        "output_operator",
        lambda: IResNet(2, members=3, output_operator=torch.eye(2).expand(2, 2, 2)),
    ),
    "output_operator of one member singular": (
        "output_operator",
        lambda: IResNet(2, members=2, output_operator=torch.stack([torch.eye(2), torch.zeros(2, 2)])),
    ),
    "output_operator of members for one network": (
        "output_operator",
        lambda: IResNet(2, output_operator=torch.eye(2).expand(3, 2, 2)),
    ),
    "inverse nan": ("z", lambda: NET.inverse(torch.full((4, 2), NAN, dtype=F64))),
    "inverse infinite": ("z", lambda: NET.inverse(torch.full((4, 2), INF, dtype=F64))),
    "inverse tol zero": ("tol", lambda: NET.inverse(X, tol=0.0)),
    "inverse tol nan": ("tol", lambda: NET.inverse(X, tol=NAN)),
    "inverse too large": ("z", lambda: NET.inverse(X + 1e151)),
    "inverse guess shape": ("guess", lambda: NET.inverse(X, guess=X[:1])),
    "inverse guess regroupable shape": ("guess", lambda: NET.inverse(X, guess=X.reshape(2, 2, 2))),
    "inverse guess dtype": ("guess", lambda: NET.inverse(X, guess=X.half())),
    "inverse guess integers": ("guess", lambda: NET.inverse(X, guess=X.long())),
    "inverse guess device": ("guess", lambda: NET.inverse(X, guess=X.to("meta"))),
    "inverse guess list": ("guess", lambda: NET.inverse(X, guess=X.tolist())),
    "inverse guess nan": ("guess", lambda: NET.inverse(X, guess=X * NAN)),
    **{
        f"pushforward_score {kind}": ("score", lambda bad=bad: NET.pushforward_score(X, bad))
        for kind, bad in {
            "of one point": X[:1],
            "flat": X[0],
            "scalar": torch.tensor(0.0, dtype=F64),
            "of more axes": X.expand(5, 4, 2),
            "of integers": X.long(),
            "of half precision": X.half(),
            "nan": X * NAN,
            "list": X.tolist(),
            "on another device": X.to("meta"),
        }.items()
    },
    "pushforward_score columns": ("x", lambda: NET.pushforward_score(X[:, :1], X[:, :1])),
    **{
        f"{method} metric {kind}": ("metric", lambda method=method, bad=bad: getattr(NET, method)(X, metric=bad))
        for method in ("forward_and_divergence", "estimate_divergence")
        for kind, bad in BAD_METRICS.items()
    },
    "exact of the network": ("exact", lambda: IResNet(2, exact=2.5)),
    "exact of the network one": ("exact", lambda: IResNet(2, exact=1)),
    "exact of the network text": ("exact", lambda: IResNet(2, exact="no")),
    **{
        f"{method} exact {bad}": ("exact", lambda method=method, bad=bad: getattr(NET, method)(X, exact=bad))
        for method in ("forward_and_log_det", "forward_and_divergence")
        for bad in (2.5, 1, "no")
    },
    "activation unknown": ("activation", lambda: IResNet(2, activation="relu")),
    "activation function": ("activation", lambda: IResNet(2, activation=torch.tanh)),
    "activation slope_bound": ("slope_bound", lambda: Activation("sine", torch.sin, torch.cos, 0.0)),
    "activation slope_bound nan": ("slope_bound", lambda: Activation("sine", torch.sin, torch.cos, NAN)),
    "activation derivative": ("derivative", lambda: Activation("sine", torch.sin, None, 1.0)),
    "activation name": ("name", lambda: Activation(3, torch.sin, torch.cos, 1.0)),
    "output_operator tiny": ("output_operator", lambda: IResNet(2, output_operator=1e-200 * EYE)),
    "output_operator huge": ("output_operator", lambda: IResNet(2, output_operator=1e200 * EYE)),
    "solve_inverse max_iterations": ("max_iterations", lambda: NET.solve_inverse(X, max_iterations=0)),
    # losses
    **{
        f"{loss.__name__} {kind}": (name, lambda loss=loss, a=arguments, s=strength: loss(*a, *s))
        for loss, strength in (
            (invlib.approximation_loss, ()),
            (invlib.reconstruction_loss, ()),
            (invlib.log_det_loss, (0.5,)),
            (invlib.divergence_loss, (0.5,)),
        )
        for kind, (name, *arguments) in {
            "pair": ("z", NET, X, X[:2]),
            "half precision": ("[xz]", NET, X.half(), X.half()),
            "bfloat16": ("[xz]", NET, X.bfloat16(), X.bfloat16()),
            "integers": ("[xz]", NET, X.long(), X.long()),
            "empty": ("x", NET, X[:0], X[:0]),
            "empty members": ("x", NET, XE[:0], XE[:0]),
            "one point without a batch": ("x", NET, X[0], X[0]),
            "nan in x": ("x", NET, X * NAN, X),
            "nan in z": ("z", NET, X, X * NAN),
            "infinite z": ("z", NET, X, X + INF),
            "x on another device": ("x", NET, X.to("meta"), X.to("meta")),
            "z on another device": ("z", NET, X, X.to("meta")),
            "mixed dtype": ("[xz]", NET, X, X.float()),
            "columns": ("[xz]", NET, X[:, :1], X[:, :1]),
            "list": ("[xz]", NET, X.tolist(), X.tolist()),
            "members": ("[xz]", ENSEMBLE, XE[:2], XE[:2]),
        }.items()
    },
    **{
        f"{loss.__name__} strength {kind}": (
            "strength",
            lambda loss=loss, net=net, bad=bad: loss(net, X if net is NET else XE, X if net is NET else XE, bad),
        )
        for loss in (invlib.log_det_loss, invlib.divergence_loss)
        for kind, (net, bad) in {
            "zero": (NET, 0.0),
            "negative": (NET, -0.5),
            "nan": (NET, NAN),
            "infinite": (NET, INF),
            "text": (NET, "strong"),
            "vector for one network": (NET, torch.tensor([0.1, 0.2])),
            "integers": (NET, torch.tensor(1)),
            "complex": (NET, torch.tensor(1.0 + 0j)),
            "boolean": (NET, torch.tensor(True)),
            "tensor nan": (NET, torch.tensor(NAN)),
            "on another device": (NET, torch.tensor(1.0, device="meta")),
            "one negative": (ENSEMBLE, torch.tensor([0.1, -0.2, 0.3])),
            "two for three": (ENSEMBLE, torch.tensor([0.1, 0.2])),
            "matrix": (ENSEMBLE, torch.full((3, 1), 0.1)),
        }.items()
    },
    **{
        f"{loss.__name__} metric {kind}": (
            "metric",
            lambda loss=loss, a=arguments, bad=bad: loss(NET, X, X, *a, metric=bad),
        )
        for loss, arguments in (
            (invlib.approximation_loss, ()),
            (invlib.log_det_loss, (0.5,)),
            (invlib.divergence_loss, (0.5,)),
        )
        for kind, bad in BAD_METRICS.items()
    },
    # train
    "train loss": ("loss must be one of approximation", lambda: train(loss="mse")),
    "train loss none": ("loss must be one of", lambda: train(loss=None)),
    "train steps": ("steps", lambda: train(steps=0)),
    "train steps float": ("steps", lambda: train(steps=1e3)),
    "train batch_size": ("batch_size", lambda: train(batch_size=0)),
    "train learning_rate": ("learning_rate", lambda: train(learning_rate=0.0)),
    "train strength zero": ("strength", lambda: train(strength=0.0)),
    "train strength nan": ("strength", lambda: train(strength=NAN)),
    "train strength text": ("strength", lambda: train(strength="strong")),
    "train strength length": ("strength", lambda: train(ENSEMBLE, strength=[0.1, 0.2])),
    "train strength negative": ("strength", lambda: train(ENSEMBLE, strength=[0.1, 0.2, -0.3])),
    "train strengths for one network": ("strength", lambda: train(strength=[0.1, 0.2])),
    "train problem length": ("problem", lambda: train(ENSEMBLE, [PROBLEM] * 2)),
    "train problem kind": ("problem", lambda: train(ENSEMBLE, [PROBLEM, PROBLEM, EYE])),
    "train problem tensor": ("problem", lambda: train(problem=EYE)),
    "train problem none": ("problem", lambda: train(problem=None)),
    "train problem dimension": ("problem", lambda: train(problem=PROBLEM_3D)),
    "train whiten": ("whiten", lambda: train(problem=LinearProblem([[1.0, 0.0]], 0.5), whiten=True)),
    "train prior dimension": ("prior", lambda: train(prior=PRIOR_3D)),
    "train prior without sample": ("prior", lambda: train(prior=torch.zeros(4, 2))),
    "train sample columns": ("prior", lambda: train(prior=Sampler(-1, 3))),
    "train sample flat": ("prior", lambda: train(prior=Sampler(-1))),
    "train sample count": ("prior", lambda: train(prior=Sampler(7, 2))),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_raises_an_error_that_names_the_argument(case):
    name, call = CASES[case]
    with pytest.raises((ValueError, TypeError), match=rf"^{name}\b"):
        call()


@pytest.mark.parametrize("count", [np.int64(5), np.int32(5)])
def test_integers_of_numpy_are_integers(count):
    assert PRIOR.sample(count, generator=oracles.generator(0)).shape == (5, 2)
    assert IResNet(2, blocks=np.int64(2), width=count).depth == 2


def test_an_injective_but_badly_conditioned_operator_never_blames_the_covariances():
    """H squares the condition number: either the density of z exists or the operator is named."""
    problem = LinearProblem(np.diag([1.0, 1e-12]), 1e-3)
    message = "operator"
    try:
        invlib.data_distribution(problem, PRIOR)
    except ValueError as error:
        message = str(error)
    assert message.startswith("operator")
