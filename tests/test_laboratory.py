"""The laboratory: its mathematics against the library, its networks, its pictures, and the page in a real browser."""

import gzip
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import browsing
import laboratory_data
import laboratory_stills
import pytest
import small_pages
import test_browser
import torch
from playwright.sync_api import Browser, Page

import invlib
from invlib import testproblems

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


def test_a_wrong_formula_is_seen(blank: Page) -> None:
    """The test of this test: an operator that is turned by one degree fails it."""
    state = random_states(1)[0]
    turned = {**state, "problem": [*state["problem"][:2], state["problem"][2] + 1]}
    found = blank.evaluate(EXACT_IN_THE_PAGE, [turned])[0]
    assert any(gap(found[name], expected) > EXACT for name, expected in exact_in_the_library(state).items())


# On the line


def test_line_agrees_with_quadrature(blank: Page) -> None:
    """Means at three temperatures, the potentials and their slopes: sums over a fine grid."""
    weights, means, stds, noise_std, z = [0.7, 0.3], [-0.8, 0.9], [0.25, 0.35], 0.45, 0.15
    found = blank.evaluate(
        """([weights, means, stds, noise_std, z]) => {
            const L = Laboratory, prior = L.on_the_line(weights, means, stds);
            const problem = new L.LinearProblem(L.IDENTITY, noise_std);
            const x = Array.from({length: 2001}, (_, i) => -4 + i / 250);
            return {...L.potentials(problem, prior, z),
                tempered: [1, 0.5, 0.1].map(t => L.line_posterior(prior, noise_std, z, x, t).mean)};
        }""",
        [weights, means, stds, noise_std, z],
    )
    prior = invlib.GaussianMixture(weights, [[m] for m in means], [[[s**2]] for s in stds])
    x = torch.linspace(-6, 6, 60_001, dtype=torch.float64)
    variance = noise_std**2
    exponent = z * x - 0.5 * x.square() + variance * prior.log_prob(x[:, None])
    step = float(x[1] - x[0])
    assert found["lambda"] == pytest.approx(
        float(variance * (exponent / variance).exp().sum().mul(step).log()), abs=EXACT
    )
    assert found["conjugate"] == pytest.approx(float(exponent.max()), abs=EXACT)
    assert found["mode"] == pytest.approx(float(x[exponent.argmax()]), abs=step)
    for temperature, mean in zip((1, 0.5, 0.1), found["tempered"], strict=True):
        density = torch.softmax(exponent / variance / temperature, dim=0)
        assert mean == pytest.approx(float(density @ x), abs=EXACT)
    assert found["mean"] == pytest.approx(found["tempered"][0], abs=EXACT)


def test_filters_are_the_minimizers_of_their_losses(blank: Page) -> None:
    """In one Gaussian direction a strategy's number a is where the derivative of its loss in a vanishes."""
    for h, noise_std, std in ((0.3, 0.4, 1.2), (1.0, 0.45, 0.6)):
        a = blank.evaluate(
            "([h, d, s]) => Object.fromEntries(Object.entries(Laboratory.FILTERS).map(([n, f]) => [n, f(h, d, s)]))",
            [h, noise_std, std],
        )
        fit = {name: (value - h) * std**2 for name, value in a.items()}
        assert fit["approximation"] == 0
        assert fit["divergence"] == pytest.approx(noise_std**2, rel=1e-12)
        assert fit["log_det"] == pytest.approx(noise_std**2 / a["log_det"], rel=1e-12)
        assert 1 / a["reconstruction"] == pytest.approx(std**2 / (h * std**2 + noise_std**2), rel=1e-12)


# Networks


def stored_network(problem: str, loss: str) -> dict:
    return next(n for n in laboratory_data.read()["networks"] if (n["problem"], n["loss"]) == (problem, loss))


def test_stored_networks_are_those_of_the_script() -> None:
    stored = laboratory_data.read()
    assert stored["digest"] == laboratory_data.digest(), "run python book/laboratory_data.py"
    assert {each["loss"] for each in stored["networks"]} == set(laboratory_data.STEPS)
    assert len(stored["networks"]) == len(laboratory_data.STEPS) * len(laboratory_data.SETTINGS)


@pytest.mark.parametrize("stored", laboratory_data.read()["networks"], ids=lambda n: f"{n['problem']}-{n['loss']}")
def test_networks_agree_with_the_library(blank: Page, stored: dict) -> None:
    """Forward, Jacobian and inverse at twenty points each: 240 in all."""
    net = laboratory_data.network(stored)
    g = torch.Generator().manual_seed(3)
    x = testproblems.two_bumps().sample(20, generator=g)
    found = blank.evaluate(
        """([number, points]) => {
            const stored = Laboratory.networks.networks[number];
            const net = Laboratory.read_network(stored, Laboratory.networks.settings);
            return points.map(x => ({...net.forward_and_jacobian(x), inverse: net.inverse(x)}));
        }""",
        [laboratory_data.read()["networks"].index(stored), x.tolist()],
    )
    value, jacobian = net.forward_and_jacobian(x)
    expected = {"value": value, "jacobian": jacobian.flatten(1), "inverse": net.inverse(x)}
    for name, tensor in expected.items():
        assert gap([each[name] for each in found], tensor) < LEARNED


@pytest.mark.parametrize("stored", laboratory_data.read()["networks"], ids=lambda n: f"{n['problem']}-{n['loss']}")
def test_networks_are_close_to_their_exact_maps(stored: dict) -> None:
    """The distance that is stored is true, and small beside the size of x."""
    assert laboratory_data.distance(stored) == pytest.approx(stored["distance"], abs=2e-5)
    assert stored["distance"] < 0.07
    lower, upper = laboratory_data.network(stored).lipschitz_bounds()
    assert 0 < lower < upper


def test_carried_networks_agree_with_the_library_and_keep_their_bound(blank: Page) -> None:
    """phi_rho by its formula, its inverse by a residual, and the bound against the exact MAP estimate."""
    stored = next(
        n for n in laboratory_data.read()["networks"] if (n["problem"], n["loss"]) == ("identity", "divergence")
    )
    net, old = laboratory_data.network(stored), laboratory_data.problems()["identity"]
    prior = testproblems.two_bumps()
    for setting in ((1.0, 0.3, 40.0), (0.5, 0.2, 40.0), (0.7, 0.4, 122.0)):
        new = testproblems.epsilon_problem(setting[0], setting[1], angle=setting[2])
        g = torch.Generator().manual_seed(8)
        z = new.normal_data(new.measure(prior.sample(20, generator=g), generator=g))
        found = blank.evaluate(
            """([setting, data, weights, means, covariances]) => {
                const L = Laboratory, settings = L.networks.settings;
                const stored = L.networks.networks.find(n => n.problem === "identity" && n.loss === "divergence");
                const {epsilon, angle, noise_std} = settings.problems.identity;
                const old = L.epsilon_problem(epsilon, noise_std, angle), here = L.epsilon_problem(...setting);
                const prior = new L.GaussianMixture(weights, means, covariances.map(rows => rows.flat()));
                const carried = new L.CarriedNetwork(L.read_network(stored, settings), old, here);
                const c = L.least_curvature(here, prior);
                return {c, points: data.map(z => {
                    const x = carried.inverse(z, L.map_estimate(here, prior, z));
                    const {value} = carried.forward_and_jacobian(x);
                    return {x, value, bound: L.carried_bound(carried, old, prior, x, c)};
                })};
            }""",
            [list(setting), z.tolist(), prior.weights.tolist(), prior.means.tolist(), prior.covariances.tolist()],
        )
        x = torch.tensor([each["x"] for each in found["points"]], dtype=torch.float64)
        rho = (new.noise_std / old.noise_std) ** 2
        value = x @ new.normal_operator - rho * (x @ old.normal_operator - net(x))
        assert gap([each["value"] for each in found["points"]], value) < LEARNED
        assert float((value - z).norm(dim=-1).max()) < LEARNED
        assert found["c"] > 0
        error = (x - invlib.map_estimate(new, prior, z)).norm(dim=-1)
        assert all(float(e) <= 1.001 * each["bound"] + 1e-9 for e, each in zip(error, found["points"], strict=True))


def test_training_in_the_page_finds_the_map_estimator(blank: Page) -> None:
    """Gradients against difference quotients, norms against the library, and 400 steps towards the minimizer."""
    blank.add_script_tag(path=str(LAB / "training.js"))
    found = blank.evaluate(
        """() => {
            const L = Laboratory, bump = [0.1, 0, 0, 0.1].map(v => 3.481 * v);
            const trainer = new L.training.Trainer({weights: [0.5, 0.5], means: [[0.8, 0.5], [-0.8, -0.5]],
                covariances: [bump, bump], operator: L.IDENTITY, noise_std: 0.4, steps: 400, batch: 64});
            trainer.loss([0.3, -0.2], 1);
            let gap = 0;
            trainer.layers.forEach((layers, k) => {
                for (const [name, array] of Object.entries(layers))
                    for (const i of [0, array.length - 1]) {
                        const [old, e] = [array[i], 1e-5];
                        const at = v => { array[i] = v; return trainer.loss([0.3, -0.2], 0); };
                        const slope = (at(old + e) - at(old - e)) / (2 * e);
                        array[i] = old;
                        gap = Math.max(gap, Math.abs(slope - trainer.gradients[k][name][i]));
                    }
            });
            trainer.gradients.forEach(each => Object.values(each).forEach(array => array.fill(0)));
            const {w2} = trainer.layers[0];
            const first = {gap, w2: [...w2], norm: L.training.spectral_norm(w2, 10, 10), before: trainer.distance()};
            while (trainer.done < trainer.steps) trainer.step();
            const norm = L.training.spectral_norm;
            const bounds = trainer.layers.map(({w1, w2, w3}) => norm(w1, 10, 2) * norm(w2, 10, 10) * norm(w3, 2, 10));
            return {...first, after: trainer.distance(), bounds};
        }"""
    )
    assert found["gap"] < 1e-7
    matrix = torch.tensor(found["w2"], dtype=torch.float64).reshape(10, 10)
    assert found["norm"] == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-9)
    assert max(found["bounds"]) <= 0.97 * (1 + 1e-9)
    assert found["after"] < 0.05 * found["before"]


# The page


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Addresses on disk of pages that hold one view each."""
    folder = tmp_path_factory.mktemp("laboratory")
    addresses = {}
    for name, figure in laboratory_stills.NAMES.items():
        file = folder / f"{name}.html"
        text = laboratory_stills.html(figure, still=False)
        file.write_text(text, encoding="utf-8")
        addresses[name] = file.as_uri()
    return addresses


@cache
def window(browser: Browser, touch: bool) -> Page:
    """A window for all pages, one after the other."""
    return browser.new_context(has_touch=touch).new_page()


@contextmanager
def opened(browser: Browser, url: str, width: int = 1000, mode: str = "light", touch: bool = False) -> Iterator[Page]:
    """A page from disk whose view is drawn; no message may appear."""
    page, found = window(browser, touch), []
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=mode)
    of_the_theme = re.compile(r"\[PST\]|theme mode")
    listeners = {
        "console": lambda message: of_the_theme.search(message.text) or found.append(message.text),
        "pageerror": lambda error: found.append(str(error)),
        "request": lambda request: found.append(request.url) if request.url.startswith("http") else None,
    }
    for event, listener in listeners.items():
        page.on(event, listener)
    try:
        page.goto(url)
        page.wait_for_function("Laboratory.frames.length > 0")
        yield page
    finally:
        page.evaluate("localStorage.clear()")
        page.goto("about:blank")
        for event, listener in listeners.items():
            page.remove_listener(event, listener)
    assert found == []


def state(page: Page, view: str = "plane") -> dict[str, float]:
    return page.evaluate(f"({{...Laboratory.views.{view}.state}})")


def settle(page: Page) -> None:
    """Wait for the next picture, and for the sentence and the address that follow it."""
    page.wait_for_timeout(420)


@pytest.mark.parametrize(("width", "mode"), [(1000, "light"), (390, "dark")])
@pytest.mark.parametrize("name", laboratory_stills.NAMES)
def test_views_show_themselves_without_a_message(
    browser: Browser, files: dict[str, str], name: str, width: int, mode: str
) -> None:
    with opened(browser, files[name], width, mode) as page:
        assert page.locator(".lab svg").count() > 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        unnamed = page.locator(".lab :is(input, select, button):visible").evaluate_all(
            "all => all.filter(e => !(e.ariaLabel || e.labels?.length || e.textContent)).length"
        )
        assert unnamed == 0
        page.evaluate(f"document.documentElement.dataset.theme = '{mode}'")
        assert test_browser.faults(page) == []
        assert "NaN" not in page.locator(".lab").inner_html()
        assert "undefined" not in page.locator(".lab").inner_text()


@pytest.mark.parametrize("preset", ["figure-1", "figure-3", "figure-4", "figure-5", "fold", "jump", "weak", "three"])
def test_presets(browser: Browser, files: dict[str, str], preset: str) -> None:
    """Where a preset has networks they are near, and where Corollary 1 fails it is said and shaded."""
    with opened(browser, f"{files['plane']}#lab=&plane={preset}") as page:
        settle(page)
        said = page.locator("[role=status]").inner_text()
        fails = preset in ("fold", "jump", "weak")
        assert ("Corollary 1 fails" in said) == fails
        assert (page.locator(".lab-main .lab-fails").count() > 0) == fails
        trained = preset.startswith("figure")
        assert (page.locator(".lab-panels .lab-learned").count() == 4) == trained


def test_mouse_moves_the_datum_and_the_address_remembers(browser: Browser, files: dict[str, str]) -> None:
    with opened(browser, files["plane"]) as page:
        x, y = middle(page, ".lab-datum .lab-dot")
        before = state(page)
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 60, y + 40, steps=4)
        page.mouse.up()
        page.get_by_label("noise δ").first.fill("0.3")
        settle(page)
        after = state(page)
        assert after["u"] > before["u"] + 0.2
        assert after["v"] < before["v"] - 0.2
        assert after["delta"] == 0.3
        link = page.evaluate("location.href")
        sentence = page.locator("[role=status]").inner_text()
    with opened(browser, link) as page:
        settle(page)
        assert state(page) == after
        assert page.locator("[role=status]").inner_text() == sentence


def test_keyboard_moves_the_handles(browser: Browser, files: dict[str, str]) -> None:
    with opened(browser, files["plane"]) as page:
        before = state(page)
        page.locator(".lab-datum").focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Shift+ArrowUp")
        page.locator(".lab-rim").first.focus()
        page.keyboard.press("ArrowLeft")
        settle(page)
        after = state(page)
    assert after["u"] == pytest.approx(before["u"] + 0.04)
    assert after["v"] == pytest.approx(before["v"] + 0.2)
    assert after["std1"] == pytest.approx(before["std1"] - 0.04)


def test_touch_moves_a_bump(browser: Browser, files: dict[str, str]) -> None:
    with opened(browser, files["plane"], width=390, touch=True) as page:
        x, y = middle(page, ".lab-centre .lab-dot")
        before = state(page)
        session = page.context.new_cdp_session(page)
        for kind, move in (("touchStart", 0), ("touchMove", 15), ("touchMove", 30), ("touchEnd", None)):
            points = [] if move is None else [{"x": x + move, "y": y}]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        settle(page)
        assert state(page)["x1"] > before["x1"] + 0.2


def middle(page: Page, selector: str) -> tuple[float, float]:
    box = page.locator(selector).first.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_the_sentence_says_what_the_library_says(browser: Browser, files: dict[str, str]) -> None:
    with opened(browser, f"{files['plane']}#lab=&plane=figure-1&plane.u=0.5&plane.v=-0.7&plane.delta=0.35") as page:
        settle(page)
        said = page.locator("[role=status]").inner_text()
    prior, problem = testproblems.two_bumps(), testproblems.epsilon_problem(1.0, 0.35)
    z = torch.tensor([0.5, -0.7], dtype=torch.float64)
    for words, point in (
        ("posterior mean", invlib.posterior_mean(problem, prior, z)),
        ("MAP estimate", invlib.map_estimate(problem, prior, z)),
    ):
        expected = f"{words} ({point[0]:.2f}, {point[1]:.2f})".replace("-", "\N{MINUS SIGN}")
        assert expected in said


def test_bad_addresses_do_no_harm(browser: Browser, files: dict[str, str]) -> None:
    with opened(browser, f"{files['plane']}#lab=&plane=nonsense&plane.delta=1e9&plane.u=cat&plane.weight1=-1") as page:
        assert state(page)["delta"] == 0.45
        assert state(page)["weight1"] == 0.5


def test_a_network_is_trained_in_a_worker(browser: Browser, files: dict[str, str]) -> None:
    with opened(browser, files["train"]) as page:
        page.get_by_role("button", name="Train").click()
        page.wait_for_function("Laboratory.views.train.history.length >= 5", timeout=20_000)
        assert page.locator("[role=status]").inner_text() == "Training."
        page.get_by_role("button", name="Stop").click()
        settle(page)
        done = page.evaluate("Laboratory.views.train.history.at(-1).done")
        assert done > 0
        page.wait_for_timeout(400)
        assert page.evaluate("Laboratory.views.train.history.at(-1).done") == done
        distances = page.evaluate("Laboratory.views.train.history.map(report => report.distance)")
        assert distances[-1] < 0.5 * distances[0]
        page.get_by_role("button", name="Reset").click()
        settle(page)
        assert page.evaluate("Laboratory.views.train.history.length") == 0


# What is stored


def test_stills_are_current_and_the_scripts_are_light() -> None:
    record = json.loads(laboratory_stills.RECORD.read_text(encoding="utf-8"))
    assert record["digest"] == laboratory_stills.digest(), "run python tests/laboratory_stills.py"
    for name in laboratory_stills.NAMES:
        assert 0 < (LAB / f"{name}.png").stat().st_size < 100_000
    weight = sum(len(gzip.compress(file.read_bytes(), 9)) for file in LAB.glob("*.js"))
    assert weight <= 40_000


def test_stills_stand_where_the_views_will() -> None:
    """Without scripts there is a picture with the caption: each view is a figure of its page with a still."""
    for page in ("index", "fifteen-minutes", "laboratory"):
        text = (browsing.ROOT / "book" / f"{page}.md").read_text(encoding="utf-8")
        figures = re.findall(
            r":::\{figure\} _static/lab/(\w+)\.png\n:name: (\S+)\n:figclass: laboratory\n:alt: \S", text
        )
        assert figures
        assert len(figures) == text.count(":figclass: laboratory")
        for still, label in figures:
            assert label.rsplit("-", 1)[1] == ("plane" if still == "small" else still)


def test_pages_load_only_what_they_need(browser: Browser, tmp_path: Path) -> None:
    """The scripts of a page by its figures; without scripts the still and its caption stand there."""
    figure = (
        ":::{{figure}} _static/lab/{}.png\n:name: fig-{}\n:figclass: laboratory\n:alt: A picture.\n\nThe caption.\n:::"
    )
    wanted = {
        "No figure.": 0,
        figure.format("small", "index-plane"): 4,
        figure.format("line", "lab-line"): 6,
    }
    for number, (text, scripts) in enumerate(wanted.items()):
        folder = tmp_path / str(number)
        page = small_pages.build(folder, f"# A page\n\n{text}", extensions=("laboratory",), theme="sphinx_book_theme")
        assert len(page.select("script[src*='lab/']")) == scripts
        assert len(page.select("link[href*='lab/lab.css']")) == (scripts > 0)
    context = browser.new_context(java_script_enabled=False)
    still = context.new_page()
    still.goto((folder / "html" / "index.html").as_uri())
    assert still.locator("figure.laboratory img").evaluate("image => image.naturalWidth") > 0
    assert still.locator("figure.laboratory figcaption").inner_text().endswith("The caption.")
    context.close()
    with opened(browser, (folder / "html" / "index.html").as_uri()) as live:
        assert live.locator("figure.laboratory .lab").count() == 1
        assert "The caption." in live.locator("figure.laboratory figcaption").inner_text()
