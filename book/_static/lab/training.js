// "Train it here": divergence training in a worker. The first function runs there; L is the mathematics of the laboratory.
function training(L) {
  "use strict";
  const SETTINGS = { blocks: 3, width: 10, lipschitz: 0.97, steps: 3000, batch: 128, peak: 0.02 };
  const NAMES = ["w1", "b1", "w2", "b2", "w3", "b3"];

  // Standard variables, in which Wiener's filter is the identity: P = H + strength^2 C^-1 and c^2 = tr(P C) / 2.
  function standard_variables(problem, prior, strength) {
    const covariance = prior.covariance();
    const p = L.sum(problem.normal_operator, L.times(strength ** 2, L.inverse(covariance)));
    const { values, vector } = L.eigen(p);
    const [low, high] = values.map(Math.sqrt);
    const [u, v] = vector;
    const root = [high * u * u + low * v * v, (high - low) * u * v, (high - low) * u * v, high * v * v + low * u * u];
    const moved = L.product(p, covariance);
    const c = Math.sqrt((moved[0] + moved[3]) / 2);
    return { first: L.times(1 / c, root), last: L.times(c, root), c };
  }

  // Sizes of the layers, and random weights.
  function new_layers(random, width) {
    const sizes = { w1: 2 * width, b1: width, w2: width * width, b2: width, w3: 2 * width, b3: 2 };
    const scales = { w1: 0.5, b1: 1, w2: 1 / Math.sqrt(width), b2: 1, w3: 0.1, b3: 0 };
    return Object.fromEntries(NAMES.map((name) =>
      [name, Float64Array.from({ length: sizes[name] }, () => scales[name] * L.normal_pair(random)[0])]));
  }

  // The largest singular value of a matrix (rows, columns): the root of the largest eigenvalue of W* W, by Jacobi's rotations.
  function spectral_norm(w, rows, columns) {
    if (columns > rows) return spectral_norm(Float64Array.from({ length: rows * columns }, (_, i) => w[(i % rows) * columns + Math.floor(i / rows)]), columns, rows);
    const a = Array.from({ length: columns }, (_, i) => Float64Array.from({ length: columns }, (_, j) => {
      let entry = 0;
      for (let k = 0; k < rows; k++) entry += w[k * columns + i] * w[k * columns + j];
      return entry;
    }));
    for (let sweep = 0; sweep < 8; sweep++)
      for (let p = 0; p < columns; p++)
        for (let q = p + 1; q < columns; q++) {
          if (Math.abs(a[p][q]) < 1e-14) continue;
          const angle = 0.5 * Math.atan2(2 * a[p][q], a[p][p] - a[q][q]);
          const [cosine, sine] = [Math.cos(angle), Math.sin(angle)];
          for (let k = 0; k < columns; k++) [a[p][k], a[q][k]] = [cosine * a[p][k] + sine * a[q][k], cosine * a[q][k] - sine * a[p][k]];
          for (let k = 0; k < columns; k++) [a[k][p], a[k][q]] = [cosine * a[k][p] + sine * a[k][q], cosine * a[k][q] - sine * a[k][p]];
        }
    return Math.sqrt(Math.max(...a.map((row, i) => row[i])));
  }

  // Where the product of the norms exceeds the bound, the last layer is scaled down.
  function constrain(layers, width, lipschitz) {
    const bound = spectral_norm(layers.w1, width, 2) * spectral_norm(layers.w2, width, width) * spectral_norm(layers.w3, 2, width);
    if (bound > lipschitz) layers.w3.forEach((entry, i) => (layers.w3[i] = (entry * lipschitz) / bound));
  }

  // One block: value and two tangents, stacked as three vectors of the plane; all that the way back needs is kept.
  function forward(layers, width, stack) {
    const { w1, b1, w2, b2, w3, b3 } = layers;
    const make = () => [0, 1, 2].map(() => new Float64Array(width));
    const kept = { stack, c1: make(), h1: make(), c2: make(), h2: make() };
    const activate = (linear, hidden) => {
      for (let i = 0; i < width; i++) {
        const root = Math.sqrt(linear[0][i] ** 2 + 0.25);
        hidden[0][i] = root - 0.5;
        for (const t of [1, 2]) hidden[t][i] = (linear[0][i] / root) * linear[t][i];
      }
    };
    for (const t of [0, 1, 2])
      for (let i = 0; i < width; i++) kept.c1[t][i] = w1[2 * i] * stack[t][0] + w1[2 * i + 1] * stack[t][1] + (t ? 0 : b1[i]);
    activate(kept.c1, kept.h1);
    for (const t of [0, 1, 2])
      for (let i = 0; i < width; i++) {
        let u = t ? 0 : b2[i];
        for (let j = 0; j < width; j++) u += w2[i * width + j] * kept.h1[t][j];
        kept.c2[t][i] = u;
      }
    activate(kept.c2, kept.h2);
    kept.output = stack.map(([x, y], t) => {
      let [p, q] = t ? [0, 0] : b3;
      for (let i = 0; i < width; i++) {
        p += w3[i] * kept.h2[t][i];
        q += w3[width + i] * kept.h2[t][i];
      }
      return [x + p, y + q];
    });
    return kept;
  }

  // The transpose of `forward`: from gradients of the output stack to those of the input stack; weights' are added up.
  function backward(layers, width, kept, gradients, output) {
    const { w1, w2, w3 } = layers;
    const input = output.map((v) => [...v]);
    const deactivate = (hidden, linear) => {
      for (let i = 0; i < width; i++) {
        const root = Math.sqrt(linear[0][i] ** 2 + 0.25);
        const slope = linear[0][i] / root;
        const bend = (hidden[1][i] * linear[1][i] + hidden[2][i] * linear[2][i]) / (4 * root ** 3);
        hidden[0][i] = hidden[0][i] * slope + bend;
        hidden[1][i] *= slope;
        hidden[2][i] *= slope;
      }
    };
    const second = output.map(([p, q], t) => {
      const g = new Float64Array(width);
      for (let i = 0; i < width; i++) {
        gradients.w3[i] += p * kept.h2[t][i];
        gradients.w3[width + i] += q * kept.h2[t][i];
        g[i] = w3[i] * p + w3[width + i] * q;
      }
      return g;
    });
    gradients.b3[0] += output[0][0];
    gradients.b3[1] += output[0][1];
    deactivate(second, kept.c2);
    const first = second.map((g, t) => {
      const below = new Float64Array(width);
      for (let i = 0; i < width; i++) {
        if (!t) gradients.b2[i] += g[i];
        for (let j = 0; j < width; j++) {
          gradients.w2[i * width + j] += g[i] * kept.h1[t][j];
          below[j] += w2[i * width + j] * g[i];
        }
      }
      return below;
    });
    deactivate(first, kept.c1);
    first.forEach((g, t) => {
      for (let i = 0; i < width; i++) {
        if (!t) gradients.b1[i] += g[i];
        gradients.w1[2 * i] += g[i] * kept.stack[t][0];
        gradients.w1[2 * i + 1] += g[i] * kept.stack[t][1];
        input[t][0] += w1[2 * i] * g[i];
        input[t][1] += w1[2 * i + 1] * g[i];
      }
    });
    return input;
  }

  class Trainer {
    constructor({ weights, means, covariances, operator, noise_std, seed = 1, ...settings }) {
      Object.assign(this, { ...SETTINGS, ...settings });
      this.prior = new L.GaussianMixture(weights, means, covariances);
      this.problem = new L.LinearProblem(operator, noise_std);
      this.variables = standard_variables(this.problem, this.prior, noise_std);
      this.strength = noise_std / this.variables.c; // in the variables of the blocks
      this.centre = this.prior.mean();
      this.random = L.generator(seed);
      this.layers = Array.from({ length: this.blocks }, () => new_layers(this.random, this.width));
      this.layers.forEach((layers) => constrain(layers, this.width, this.lipschitz));
      const empty = () => this.layers.map((layers) => Object.fromEntries(NAMES.map((name) => [name, new Float64Array(layers[name].length)])));
      [this.gradients, this.first, this.second] = [empty(), empty(), empty()];
      this.done = 0;
      const random = L.generator(999);
      this.tests = Array.from({ length: 400 }, () => this.prior.sample(random));
    }

    into(x) {
      return L.apply(this.variables.first, L.minus(x, this.centre));
    }

    // H x or phi*(x), in the variables of the blocks.
    target(image) {
      return L.solve(this.variables.last, L.minus(image, L.apply(this.problem.normal_operator, this.centre)));
    }

    // 1/2 |psi(v) - w|^2 - strength^2 div psi(v): its value, and its gradient added up, weighted by `share`.
    loss(x, share) {
      const wanted = this.target(L.apply(this.problem.normal_operator, x));
      let stack = [this.into(x), [1, 0], [0, 1]];
      const all = this.layers.map((layers) => {
        const kept = forward(layers, this.width, stack);
        stack = kept.output;
        return kept;
      });
      const off = L.minus(stack[0], wanted);
      const pay = this.strength ** 2;
      if (share) {
        let gradient = [L.times(share, off), [-share * pay, 0], [0, -share * pay]];
        for (let k = this.blocks - 1; k >= 0; k--) gradient = backward(this.layers[k], this.width, all[k], this.gradients[k], gradient);
      }
      return 0.5 * L.dot(off, off) - pay * (stack[1][0] + stack[2][1]);
    }

    // The same for the best map phi*: its divergence is tr H - strength^2 tr Hess log p, in the same variables.
    best_loss(x) {
      const { noise_std, normal_operator } = this.problem;
      const wanted = this.target(L.apply(normal_operator, x));
      const off = L.minus(this.target(L.divergence_minimizer(this.problem, this.prior, x)), wanted);
      const slope = L.sum(normal_operator, L.times(-(noise_std ** 2), this.prior.hessian(x)));
      const inner = L.product(L.product(L.inverse(this.variables.last), slope), L.inverse(this.variables.first));
      return 0.5 * L.dot(off, off) - this.strength ** 2 * (inner[0] + inner[3]);
    }

    // One step of Adam on fresh samples; returns loss less the loss of the best map on the same samples.
    step() {
      let excess = 0;
      for (let i = 0; i < this.batch; i++) {
        const x = this.prior.sample(this.random);
        excess += (this.loss(x, 1 / this.batch) - this.best_loss(x)) / this.batch;
      }
      this.done++;
      const progress = this.done / this.steps;
      const rate = this.peak * Math.min(1, progress / 0.05) * 0.5 * (1 + Math.cos(Math.PI * Math.min(1, progress)));
      const [a, b] = [1 - 0.9 ** this.done, 1 - 0.99 ** this.done];
      this.layers.forEach((layers, k) => {
        for (const name of NAMES) {
          const [w, g, m, v] = [layers[name], this.gradients[k][name], this.first[k][name], this.second[k][name]];
          for (let i = 0; i < w.length; i++) {
            m[i] += 0.1 * (g[i] - m[i]);
            v[i] += 0.01 * (g[i] ** 2 - v[i]);
            w[i] -= (rate * m[i]) / a / (Math.sqrt(v[i] / b) + 1e-10);
            g[i] = 0;
          }
        }
        constrain(layers, this.width, this.lipschitz);
      });
      return excess;
    }

    network() {
      const { first, last } = this.variables;
      const blocks = this.layers.map((layers) => new L.DenseBlock(layers, this.width));
      return new L.IResNet(first, blocks, last, this.centre, L.apply(this.problem.normal_operator, this.centre));
    }

    // Theorem 2: loss less its minimum is half the mean squared distance to phi*, in the norm of the loss.
    distance() {
      const net = this.network();
      return this.tests.reduce((all, x) => {
        const off = L.solve(this.variables.last, L.minus(net.forward(x), L.divergence_minimizer(this.problem, this.prior, x)));
        return all + 0.5 * L.dot(off, off) / this.tests.length;
      }, 0);
    }
  }

  // In a worker: train in short pieces, and report after each.
  function serve(scope) {
    let trainer = null;
    let running = false;
    const piece = () => {
      if (!running) return;
      let excess = 0, count = 0;
      const end = Date.now() + 120;
      while (Date.now() < end && trainer.done < trainer.steps) (excess += trainer.step()), count++;
      if (trainer.done >= trainer.steps) running = false;
      scope.postMessage({ done: trainer.done, steps: trainer.steps, excess: excess / Math.max(1, count), distance: trainer.distance(), layers: trainer.layers, running });
      setTimeout(piece, 0);
    };
    scope.onmessage = ({ data }) => {
      if (data.setting) trainer = new Trainer(data.setting);
      running = data.run;
      if (running) piece();
    };
  }

  return { Trainer, serve, spectral_norm, standard_variables };
}

Object.assign(Laboratory, { training: training(Laboratory) });

(() => {
  "use strict";
  if (!Laboratory.View) return;
  const L = Laboratory;
  const { element, field, number, fine } = L.tools;
  const { PLANE, REACH } = L.plane;

  const FIELDS = { delta: field("noise δ", 0.4, 0.15, 0.6), separation: field("distance of the bumps / 2", 0.94, 0, 1.3), seed: field("seed", 1, 1, 99, 1) };
  const PRESETS = { bumps: { title: "Two bumps, A = Id", values: {} }, quiet: { title: "Less noise", values: { delta: 0.25 } }, apart: { title: "Too far apart: Corollary 1 fails", values: { separation: 1.25 } } };

  class Training extends L.View {
    constructor(figure) {
      super("train", figure, FIELDS, PRESETS);
      this.map = element("div");
      this.chart = element("div");
      this.words = element("p", { class: "lab-note" });
      this.start = element("button", { type: "button" }, "Train");
      this.clear = element("button", { type: "button" }, "Reset");
      this.start.addEventListener("click", () => this.toggle());
      this.clear.addEventListener("click", () => this.restart());
      const controls = element("div", { class: "lab-controls" }, this.choose_preset(), this.quantities("delta", "separation", "seed"),
        element("div", { class: "lab-buttons" }, this.start, this.clear), this.words);
      this.history = [];
      this.enter(element("div", { class: "lab-top" }, this.map, element("div", {}, controls, this.chart)));
    }

    setting() {
      const { delta, separation, seed } = this.state;
      const mean = L.times(separation / Math.hypot(0.8, 0.5), [0.8, 0.5]);
      const covariance = L.times(0.59 ** 2, L.IDENTITY);
      return { weights: [0.5, 0.5], means: [mean, L.times(-1, mean)], covariances: [covariance, covariance], operator: L.IDENTITY, noise_std: delta, seed };
    }

    // The worker is made of text, since pages opened from disk load no script into one.
    worker() {
      const text = `const L = (${L.source})(); (${training})(L).serve(self);`;
      const made = new Worker(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
      made.onmessage = ({ data }) => this.receive(data);
      return made;
    }

    toggle() {
      if (this.running) this.helper.postMessage({ run: false });
      else {
        if (this.finished) this.restart();
        const setting = this.helper ? null : this.setting();
        this.helper ??= this.worker();
        this.helper.postMessage({ setting, run: true });
      }
      this.running = !this.running;
      if (this.running) this.said.textContent = "Training."; // what is said waits until nothing moves
      this.show();
    }

    restart() {
      this.helper?.terminate();
      this.helper = null;
      this.running = this.finished = false;
      this.history = [];
      this.shadow = null;
      this.show();
    }

    receive(report) {
      this.history.push(report);
      this.finished = report.done >= report.steps;
      if (this.finished) this.running = false;
      this.shadow.layers = report.layers;
      this.show();
    }

    set(changes) {
      if (this.history?.length || this.helper) this.restart();
      super.set(changes);
    }

    reset(preset) {
      if (this.history) this.restart();
      super.reset(preset);
    }

    draw() {
      this.shadow ??= new L.training.Trainer(this.setting());
      const { prior, problem } = this.shadow;
      const net = this.shadow.network();
      const c = L.least_curvature(problem, prior);
      const lines = L.grid_lines(REACH, 0.4, 31);
      const family = new L.Posterior(problem, prior);
      const exact = lines.map((line) => line.map((z) => L.highest_mode(family.at(z))));
      const learned = lines.map((line) => line.map((z) => net.inverse(z)));
      const f = L.frame([0, 0, 400, 400], [-REACH, REACH], [-REACH, REACH]);
      this.map.innerHTML = L.picture(400, 400, "The grid moved by the network in training, over that of the MAP estimator",
        prior.means.map((mean, k) => L.ellipse(f, mean, prior.covariances[k], 1, "lab-rim-line")).join("") +
        L.grid(f, exact, "lab-exact lab-divergence", c > 0 ? Infinity : 0.5) + L.grid(f, learned, "lab-learned"));
      this.draw_chart();
      this.start.textContent = this.running ? "Stop" : this.finished ? "Train again" : this.history.length ? "Go on" : "Train";
      const last = this.history.at(-1);
      const off = this.off(lines.flat(), learned.flat(), exact.flat(), prior);
      this.words.textContent = c > 0 ? `Off the MAP estimator by ${fine(off)} (root mean square over the grid where there are data).` : "Corollary 1 fails here: the network learns another map than the MAP estimator.";
      const done = last ? `Step ${last.done} of ${last.steps}: excess loss ${last.distance.toExponential(1)}.` : "Not trained yet.";
      return this.running ? "Training." : `${done} ${this.words.textContent}`;
    }

    // Root mean square distance over the part of the grid where there are data.
    off(data, learned, exact, prior) {
      const squares = data.map((z, i) => [prior.log_prob(z), L.norm(L.minus(learned[i], exact[i])) ** 2])
        .filter(([log]) => log > -5).map(([, square]) => square);
      return Math.sqrt(squares.reduce((all, square) => all + square) / squares.length);
    }

    draw_chart() {
      const f = L.frame([46, 26, 230, 150], [0, 3000], [-5, 0]);
      const log = (value) => (value > 0 ? Math.log10(value) : NaN);
      const steps = this.history.map(({ done }) => done);
      const dots = this.history.filter(({ excess }) => excess > 1e-5).map(({ done, excess }) => L.marker(f, [done, log(excess)], "circle", "lab-net", 1.6)).join("");
      this.chart.innerHTML = L.picture(300, 220, "Loss less its minimum, on a logarithmic scale",
        L.axes(f, "step", "log₁₀(loss − minimum)", [[0, 1000, 2000, 3000], [-4, -2, 0]]) +
        L.clipped(f, "lab-clip-loss", dots + (steps.length > 1 ? L.curve(f, steps, this.history.map(({ distance }) => log(distance)), "lab-divergence") : "")));
    }
  }

  L.builders.train = (figure) => new Training(figure);
})();
