// Two more views: one dimension, and the filters of a Gaussian prior.
(() => {
  "use strict";
  const L = Laboratory;
  const { element, field, number } = L.tools;
  const SIZE = [340, 250];
  const BOX = [42, 26, 286, 182];

  class Plots extends L.View {
    build(names, ...controls) {
      this.drawings = names.map(() => element("div"));
      const row = element("div", { class: "lab-row" }, this.choose_preset(), ...controls);
      this.enter(row, element("div", { class: "lab-plots" }, ...this.drawings));
    }

    plot(i, label, inside) {
      this.drawings[i].innerHTML = L.picture(...SIZE, label, inside);
    }
  }

  // --- One dimension, A = 1 ----------------------------------------------------------------------------------------
  const LINE = {
    z: field("datum z", 0.3, -2, 2), delta: field("noise δ", 0.45, 0.1, 1),
    temperature: field("temperature", 1, 0.02, 1), steps: field("Newton steps from z", 0, 0, 8, 1),
    m1: field("bump 1: mean", -0.94, -2, 2), std1: field("bump 1: width", 0.59, 0.15, 1), weight1: field("bump 1: weight", 0.5, 0.02, 1),
    m2: field("bump 2: mean", 0.94, -2, 2), std2: field("bump 2: width", 0.59, 0.15, 1), weight2: field("bump 2: weight", 0.5, 0.02, 1),
  };
  const LINE_PRESETS = {
    "figure-3": { title: "Figure 3 of the paper: explicit and implicit step", values: {} },
    cold: { title: "From mean to mode: temperature 0.1", values: { temperature: 0.1, z: 0.15 } },
    jump: { title: "A jump: unequal bumps", values: { m1: -0.8, std1: 0.25, weight1: 0.7, m2: 0.9, std2: 0.35, weight2: 0.3, z: 0.15 } },
    fold: { title: "A fold: noise too large for Corollary 1", values: { delta: 0.8 } },
  };

  class Line extends Plots {
    constructor(figure) {
      super("line", figure, LINE, LINE_PRESETS);
      const fold = element("details", { class: "lab-more" }, element("summary", {}, "Bumps"),
        this.quantities("m1", "m2", "std1", "std2", "weight1", "weight2"));
      this.build(["densities", "steps", "potentials", "slopes"], this.quantities("z", "delta", "temperature", "steps"), fold);
      this.x = L.linspace(-2.6, 2.6, 261);
      this.z = L.linspace(-2, 2, 161);
      this.drawings[0].addEventListener("pointerdown", (event) => this.drag(event));
      this.drawings[0].addEventListener("pointermove", (event) => event.buttons && this.drag(event));
    }

    drag(event) {
      const box = this.drawings[0].getBoundingClientRect();
      const [z] = this.densities.back(((event.clientX - box.left) / box.width) * SIZE[0], 0);
      if (event.pointerType === "mouse") event.preventDefault();
      this.set({ z });
    }

    draw() {
      const s = this.state;
      const stds = [s.std1, s.std2];
      const prior = L.on_the_line([s.weight1, s.weight2], [s.m1, s.m2], stds);
      const evidence = L.on_the_line([s.weight1, s.weight2], [s.m1, s.m2], stds.map((std) => Math.hypot(std, s.delta)));
      const problem = new L.LinearProblem(L.IDENTITY, s.delta);
      const here = L.potentials(problem, prior, s.z);
      const tempered = L.line_posterior(prior, s.delta, s.z, this.x, s.temperature);
      this.draw_densities(prior, here, tempered);
      this.draw_steps(prior, evidence, problem, here);
      this.draw_potentials(problem, prior, here);
      const c = Math.min(...this.x.map((x) => 1 - s.delta ** 2 * prior.hessian([x, 0])[0]));
      const holds = c > 0 ? "φ* increases: its inverse is the MAP estimate." : "φ* is not increasing: it folds, and the MAP estimate jumps.";
      return `Datum ${number(s.z)}: posterior mean ${number(here.mean)}, MAP estimate ${number(here.mode)}, ` +
        `mean at temperature ${number(s.temperature)}: ${number(tempered.mean)}. ${holds}`;
    }

    draw_densities(prior, { mean, mode }, tempered) {
      const density = this.x.map((x) => prior.derivatives([x, 0]).log_prob + 0.5 * Math.log(2 * Math.PI)).map(Math.exp);
      const f = (this.densities = L.frame(BOX, [-2.6, 2.6], [0, 1.08 * Math.max(...density, ...tempered.density)]));
      this.plot(0, "Prior and posterior density", L.axes(f, "x", "prior, posterior", [[-2, -1, 0, 1, 2], []]) +
        L.area(f, this.x, density, "lab-under") + L.area(f, this.x, tempered.density, "lab-under-posterior") +
        L.vertical(f, this.state.z, "lab-data lab-thin") + L.vertical(f, mean, "lab-posterior_mean") + L.vertical(f, mode, "lab-map") +
        (this.state.temperature < 1 ? L.vertical(f, tempered.mean, "lab-posterior") : "") +
        L.text([f.X(this.state.z), BOX[1] - 4], "z"));
    }

    // The line (x - z) / delta^2 meets the score of the prior at the modes: an implicit step. Its height s_Z(z) is that of
    // the posterior mean: an explicit one.
    draw_steps(prior, evidence, problem, { mean, mode }) {
      const { z, delta, steps } = this.state;
      const score = this.x.map((x) => prior.score([x, 0])[0]);
      const of_data = this.x.map((x) => evidence.score([x, 0])[0]);
      const height = Math.min(12, Math.max(2, 1.15 * Math.max(...score.slice(40, 220).map(Math.abs))));
      const f = L.frame(BOX, [-2.6, 2.6], [-height, height]);
      const explicit = evidence.score([z, 0])[0];
      const mixture = L.posterior(problem, prior, [z, 0]);
      let [x, dots] = [[z, 0], ""];
      for (let k = 0; k <= steps; k++) {
        if (k) x = L.newton_step(mixture, x);
        dots += L.marker(f, [x[0], prior.score(x)[0]], "circle", "lab-map lab-net", 2.5);
      }
      this.plot(1, "Scores of prior and data, and both Euler steps", L.axes(f, "x", "scores, and (x − z)/δ²", [[-2, -1, 0, 1, 2], [0]]) +
        L.clipped(f, "lab-clip-steps", L.curve(f, this.x, score, "lab-prior") + L.curve(f, this.x, of_data, "lab-data") +
          L.curve(f, this.x, this.x.map((t) => (t - z) / delta ** 2), "lab-data lab-thin") +
          L.path(L.polyline(f, [[z, 0], [z, explicit], [mean, explicit], [mean, 0]]), "lab-way lab-posterior_mean") +
          L.path(L.polyline(f, [[mode, prior.score([mode, 0])[0]], [mode, 0]]), "lab-way lab-map") + dots) +
        L.marker(f, [mean, 0], "square", "lab-posterior_mean", 4) + L.marker(f, [mode, 0], "diamond", "lab-map", 4) +
        L.text([f.X(z), f.Y(0) + 15], "z"));
    }

    draw_potentials(problem, prior, here) {
      const found = this.z.map((z) => L.potentials(problem, prior, z));
      const level = here.lambda - here.conjugate; // both are known up to a constant: they touch at z
      const soft = found.map(({ lambda }) => lambda - level);
      const hard = found.map(({ conjugate }) => conjugate);
      const f = L.frame(BOX, [-2, 2], [Math.min(...soft, ...hard), Math.max(...soft, ...hard)]);
      this.plot(2, "The potentials", L.axes(f, "z", "Λ and J₀*, made to meet at z", [[-2, -1, 0, 1, 2], []]) +
        L.curve(f, this.z, soft, "lab-posterior_mean") + L.curve(f, this.z, hard, "lab-map") + L.vertical(f, this.state.z, "lab-data lab-thin"));

      const g = L.frame(BOX, [-2, 2], [-2, 2]);
      const star = this.x.map((x) => [L.divergence_minimizer(problem, prior, [x, 0])[0], x]);
      const modes = this.z.map((z, i) => [z, found[i].mode]);
      this.plot(3, "Their slopes: posterior mean and MAP estimate", L.axes(g, "z", "slopes: the estimators, and φ*", [[-2, -1, 0, 1, 2], [-1, 0, 1]]) +
        L.clipped(g, "lab-clip-slopes", L.path(L.polyline(g, [[-2, -2], [2, 2]]), "lab-curve lab-data lab-thin") +
          L.path(L.polyline(g, star), "lab-curve lab-prior lab-thin") + L.curve(g, this.z, found.map(({ mean }) => mean), "lab-posterior_mean") +
          L.path(L.polyline(g, modes, 0.3), "lab-curve lab-map")) +
        L.marker(g, [this.state.z, here.mean], "square", "lab-posterior_mean", 4) + L.marker(g, [this.state.z, here.mode], "diamond", "lab-map", 4));
    }
  }

  // --- Filters -------------------------------------------------------------------------------------------------------
  const FILTER = {
    delta: field("noise δ", 0.3, 0.02, 1), std: field("standard deviation s of the prior", 1, 0.2, 3),
    blocks: field("blocks K", 1, 1, 8, 1), lipschitz: field("Lipschitz bound L", 0.9, 0.3, 0.99),
  };
  const FILTER_PRESETS = {
    one: { title: "One block: the constraint is a regularization", values: {} },
    three: { title: "Three blocks: the prior is", values: { blocks: 3, lipschitz: 0.97 } },
    noisy: { title: "Much noise", values: { blocks: 3, lipschitz: 0.97, delta: 0.9 } },
  };
  const STYLES = { approximation: "lab-approximation", reconstruction: "lab-reconstruction lab-thick", log_det: "lab-log_det", divergence: "lab-divergence lab-thin" };

  class Filter extends Plots {
    constructor(figure) {
      super("filter", figure, FILTER, FILTER_PRESETS);
      this.build(["a", "1/a"], this.quantities("delta", "std", "blocks", "lipschitz"));
      this.h = L.linspace(0, 1.6, 161);
    }

    draw() {
      const { delta, std, blocks, lipschitz } = this.state;
      const range = L.reachable(Math.round(blocks), lipschitz);
      const [f, g] = [L.frame(BOX, [0, 1.6], [0, 2]), L.frame(BOX, [0, 1.6], [0, 6])];
      const curves = (at, map) => Object.entries(L.FILTERS).map(([name, filter]) => {
        const free = this.h.map((h) => filter(h, delta, std));
        return L.curve(at, this.h, free.map(map), `${STYLES[name]} lab-free`) +
          L.curve(at, this.h, free.map((a) => map(L.clip(a, range))), STYLES[name]);
      }).join("");
      const band = (at, low, high) => `<rect x="${at.box[0]}" width="${at.box[2]}" y="${at.Y(high)}" height="${at.Y(low) - at.Y(high)}" class="lab-band"/>`;
      this.plot(0, "The filters a of the four strategies", L.axes(f, "h", "a(h)", [[0, 0.5, 1, 1.5], [0, 1, 2]]) +
        L.clipped(f, "lab-clip-a", band(f, ...range) + curves(f, (a) => a)));
      this.plot(1, "The reconstruction 1/a", L.axes(g, "h", "1/a(h)", [[0, 0.5, 1, 1.5], [0, 2, 4, 6]]) +
        L.clipped(g, "lab-clip-inverse", band(g, 1 / range[1], 1 / range[0]) + curves(g, (a) => 1 / a)));
      const at = (name) => number(L.FILTERS[name](0.25, delta, std));
      return `At h = 0.25: approximation ${at("approximation")}, reconstruction and divergence ${at("divergence")}, log-determinant ${at("log_det")}. ` +
        `The network can reach slopes from ${number(range[0], 4)} to ${number(range[1])}.`;
    }
  }

  L.builders.line = (figure) => new Line(figure);
  L.builders.filter = (figure) => new Filter(figure);
})();
