"""The laboratory: its mathematics against the library, its networks, its pictures, and the page in a real browser."""

import math
from collections.abc import Iterator
from pathlib import Path

import browsing
import invlib
import laboratory_data
import pytest
import torch
from invlib import testproblems
from invlib.log_det_minimizer import LogDetMinimizer
from playwright.sync_api import Browser, Page

LAB = Path(laboratory_data.FILE).parent
STATES = 240
EXACT = 1e-6  # of the exact estimators, relative to max(1, size)
LEARNED = 1e-4  # of the networks

pytestmark = browsing.needs_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing.launched() as running:
        yield running


@pytest.fixture(scope="module")
def blank(browser: Browser) -> Iterator[Page]:
    """An empty page with the mathematics and the networks of the laboratory."""
    page = browser.new_page()
    for name in ("mathematics.js", "networks.js"):
        page.add_script_tag(path=str(LAB / name))
    yield page
    page.close()


def uniform(low: float, high: float, *shape: int, generator: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def random_states(count: int) -> list[dict]:
    """Priors of two and three bumps, not all of them round, problems, and data."""
    g = torch.Generator().manual_seed(17)
    states = []
    for number in range(count):
        components = 2 + number % 2
        weights = uniform(0.15, 1, components, generator=g)
        factors = torch.diag_embed(uniform(0.25, 0.8, components, 2, generator=g))
        if number % 3 == 0:
            factors[:, 1, 0] = uniform(-0.4, 0.4, components, generator=g)
        else:
            factors[:, 1, 1] = factors[:, 0, 0]
        epsilon, noise_std, angle = (
            float(uniform(low, high, 1, generator=g)) for low, high in ((0.1, 1), (0.05, 0.9), (0, 180))
        )
        state = {
            "weights": (weights / weights.sum()).tolist(),
            "means": uniform(-1.4, 1.4, components, 2, generator=g).tolist(),
            "covariances": (factors @ factors.mT).tolist(),
            "problem": [epsilon, noise_std, angle],
        }
        prior, problem = library_state(state)
        state["x"] = prior.sample(1, generator=g)[0].tolist()
        measured = problem.measure(prior.sample(1, generator=g), generator=g)
        states.append({**state, "z": problem.normal_data(measured)[0].tolist()})
    return states


def library_state(state: dict) -> tuple[invlib.GaussianMixture, invlib.LinearProblem]:
    prior = invlib.GaussianMixture(state["weights"], state["means"], state["covariances"])
    epsilon, noise_std, angle = state["problem"]
    return prior, testproblems.epsilon_problem(epsilon, noise_std, angle=angle)


EXACT_IN_THE_PAGE = """states => states.map(({weights, means, covariances, problem, x, z}) => {
    const L = Laboratory;
    const prior = new L.GaussianMixture(weights, means, covariances.map(rows => rows.flat()));
    const here = L.epsilon_problem(...problem);
    return {
        operator: here.operator,
        log_prob: prior.log_prob(x),
        score: prior.score(x),
        hessian: prior.hessian(x),
        curvature: L.map_curvature(here, prior, x),
        minimizer: L.divergence_minimizer(here, prior, x),
        mean: L.posterior_mean(here, prior, z),
        covariance: L.posterior_covariance(here, prior, z),
        map: L.map_estimate(here, prior, z),
        naive: L.naive_inverse(here, z),
    };
})"""


def exact_in_the_library(state: dict) -> dict[str, torch.Tensor]:
    prior, problem = library_state(state)
    x, z = (torch.tensor(state[name], dtype=torch.float64) for name in "xz")
    h = problem.normal_operator
    return {
        "operator": problem.operator,
        "log_prob": prior.log_prob(x),
        "score": prior.score(x),
        "hessian": prior.hessian(x),
        "curvature": invlib.map_curvature(problem, prior, x),
        "minimizer": h @ x - problem.noise_std**2 * prior.score(x),
        "mean": invlib.posterior_mean(problem, prior, z),
        "covariance": invlib.posterior_covariance(problem, prior, z),
        "map": invlib.map_estimate(problem, prior, z),
        "naive": torch.linalg.solve(h, z),
    }


def gap(found: object, expected: torch.Tensor) -> float:
    """The largest difference, relative to the size of what is expected or one."""
    difference = torch.tensor(found, dtype=torch.float64).flatten() - expected.flatten()
    return float(difference.abs().max() / expected.abs().max().clamp_min(1.0))


def test_exact_estimators_agree_with_the_library(blank: Page) -> None:
    states = random_states(STATES)
    assert len(states) >= 200
    for state, found in zip(states, blank.evaluate(EXACT_IN_THE_PAGE, states), strict=True):
        for name, expected in exact_in_the_library(state).items():
            assert gap(found[name], expected) < EXACT, (name, state)
