// The laboratory: what is shown, what can be moved, and what the address remembers. Mathematics and pictures are elsewhere.
(() => {
  "use strict";
  const L = Laboratory;

  // --- A view: a figure of the page that comes to life. Its state is a table of numbers and the name of a preset. -----
  class View {
    constructor(name, figure, fields, presets) {
      Object.assign(this, { name, figure, fields, presets });
      this.first = Object.fromEntries(Object.entries(fields).map(([key, field]) => [key, field.value]));
      this.inputs = {};
      this.reset(Object.keys(presets)[0]);
      this.read_address();
      this.root = element("div", { class: `lab lab-${name}` });
      this.said = element("p", { class: "lab-said", role: "status", "aria-live": "polite" });
    }

    // Put the view in the place of the still picture; the caption stays.
    enter(...parts) {
      this.root.append(...parts, this.said);
      const still = this.figure.querySelector("a:has(> img)") ?? this.figure.querySelector("img");
      still.replaceWith(this.root);
      this.show();
    }

    reset(preset) {
      this.preset = preset;
      this.state = { ...this.first, ...this.presets[preset].values };
    }

    set(changes) {
      for (const [key, value] of Object.entries(changes)) {
        if (!Number.isFinite(value)) continue;
        const { min, max } = this.fields[key];
        this.state[key] = +Math.min(max, Math.max(min, value)).toFixed(4);
      }
      this.moving = true; // pictures are coarser until it rests
      this.show();
    }

    // Draw in the next frame, at most once.
    show() {
      if (this.waiting) return;
      this.waiting = requestAnimationFrame(() => {
        this.waiting = null;
        const begin = performance.now();
        for (const [key, inputs] of Object.entries(this.inputs))
          for (const input of inputs) if (document.activeElement !== input || input.type === "range") input.value = this.state[key];
        if (this.chooser) this.chooser.value = this.preset;
        const sentence = this.draw();
        if (L.frames.push(performance.now() - begin) > 600) L.frames.shift();
        clearTimeout(this.talking);
        this.talking = setTimeout(() => this.rest(sentence), 300);
      });
    }

    // Nothing has moved for a while: draw finely, and speak.
    rest(sentence) {
      if (this.moving) {
        this.moving = false;
        sentence = this.draw();
      }
      if (this.said.textContent !== sentence) this.said.textContent = sentence;
      this.write_address();
    }

    // The address holds the preset and what differs from it: #lab=&plane=figure-1&plane.delta=0.3
    read_address() {
      const given = new URLSearchParams(location.hash.slice(1));
      const preset = given.get(this.name);
      if (preset in this.presets) this.reset(preset);
      for (const [key, { min, max }] of Object.entries(this.fields)) {
        const text = given.get(`${this.name}.${key}`);
        const value = Number(text);
        if (text && value >= min && value <= max) this.state[key] = value;
      }
    }

    write_address() {
      const given = new URLSearchParams(location.hash.startsWith("#lab") ? location.hash.slice(1) : "lab=");
      for (const key of [...given.keys()]) if (key === this.name || key.startsWith(`${this.name}.`)) given.delete(key);
      const usual = { ...this.first, ...this.presets[this.preset].values };
      const changed = Object.keys(this.fields).filter((key) => this.state[key] !== usual[key]);
      if (this.preset !== Object.keys(this.presets)[0] || changed.length) given.set(this.name, this.preset);
      for (const key of changed) given.set(`${this.name}.${key}`, this.state[key]);
      const hash = [...given.keys()].length > 1 ? `#${given}` : "";
      if (hash === location.hash || (!hash && !location.hash.startsWith("#lab"))) return;
      try {
        history.replaceState(history.state, "", hash || location.pathname + location.search);
      } catch {
        location.replace(hash || "#"); // a page from disk, in some browsers
      }
    }

    // --- Controls ---
    choose_preset() {
      const options = Object.entries(this.presets).map(([key, { title }]) => element("option", { value: key }, title));
      this.chooser = element("select", {}, ...options);
      this.chooser.addEventListener("change", () => {
        this.reset(this.chooser.value);
        this.show();
      });
      return element("label", { class: "lab-preset" }, "Show ", this.chooser);
    }

    quantity(key) {
      const { label, min, max, step } = this.fields[key];
      const inputs = ["range", "number"].map((type) => element("input", { type, min, max, step: type === "number" ? "any" : step, "aria-label": label }));
      inputs.forEach((input) => input.addEventListener("input", () => this.set({ [key]: input.value === "" ? NaN : Number(input.value) })));
      inputs[1].addEventListener("change", () => (inputs[1].value = this.state[key]));
      (this.inputs[key] ??= []).push(...inputs);
      return element("div", { class: "lab-quantity" }, element("span", { "aria-hidden": "true" }, label), ...inputs);
    }

    quantities(...keys) {
      return element("div", { class: "lab-quantities" }, ...keys.map((key) => this.quantity(key)));
    }
  }

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  const field = (label, value, min, max, step = 0.01) => ({ label, value, min, max, step });
  const number = (value, digits = 2) => value.toFixed(digits).replace("-", "\u2212");
  const place = (point) => `(${number(point[0])}, ${number(point[1])})`;
  const fine = (value) => (value >= 0.1 ? number(value) : number(value, value >= 0.01 ? 3 : 4));
  const rms = (differences) => Math.sqrt(differences.reduce((all, v) => all + v[0] ** 2 + v[1] ** 2, 0) / differences.length);

  // --- The plane ---------------------------------------------------------------------------------------------------
  const bump = (k, x, y, std, weight) => ({
    [`x${k}`]: field(`bump ${k}: x`, x, -2.2, 2.2), [`y${k}`]: field(`bump ${k}: y`, y, -1.8, 1.8),
    [`std${k}`]: field(`bump ${k}: width`, std, 0.15, 1.2), [`weight${k}`]: field(`bump ${k}: weight`, weight, 0, 1),
  });
  const PLANE = {
    delta: field("noise \u03b4", 0.45, 0.05, 0.9), epsilon: field("weak singular value \u03b5", 1, 0.125, 1, 0.005),
    angle: field("weak direction (\u00b0)", 40, 0, 180, 1), strength: field("strength \u03b4\u0302 / \u03b4", 1, 0.5, 1.5, 0.05),
    u: field("datum: x", -0.26, -2.3, 2.3), v: field("datum: y", 0.9, -1.9, 1.9),
    ...bump(1, 0.8, 0.5, 0.59, 0.5), ...bump(2, -0.8, -0.5, 0.59, 0.5), ...bump(3, 0.9, -1.2, 0.4, 0),
  };
  const PLANE_PRESETS = {
    "figure-1": { title: "Figure 1 of the paper: four trainings, A = Id", values: {} },
    "figure-3": { title: "Figure 3: posterior mean and MAP, A = Id", values: { u: 0.3, v: -0.9 } },
    "figure-4": { title: "Figure 4: \u03b5 = 1/8, errors in both directions", values: { epsilon: 0.125, angle: 122, delta: 0.16, u: -1.2, v: 1.2 } },
    "figure-5": { title: "Figure 5: \u03b5 = 1/2, the strength is the noise", values: { epsilon: 0.5, delta: 0.2, u: 0.1, v: 0.6 } },
    fold: { title: "A fold: noise too large for Corollary 1", values: { delta: 0.65 } },
    jump: { title: "A jump: unequal bumps", values: { delta: 0.65, weight1: 0.7, weight2: 0.3, std2: 0.4, u: -0.4, v: -0.1 } },
    weak: { title: "The weak direction points from bump to bump", values: { epsilon: 0.125, delta: 0.16, u: 0.4, v: 1 } },
    three: { title: "Three bumps", values: { delta: 0.2, std1: 0.5, std2: 0.5, weight3: 0.4, u: 0.4, v: -0.2 } },
  };
  const STRATEGIES = [
    ["approximation", "naive inverse", "circle"], ["reconstruction", "posterior mean", "square"],
    ["log_det", "near a smoother mean", "triangle"], ["divergence", "MAP estimate", "diamond"],
  ];
  const REACH = 2.4;
  const QUANTILE = Math.sqrt(-2 * Math.log(0.1)); // an ellipse of this radius holds 90 % of a Gaussian in the plane

  class Plane extends View {
    constructor(figure, small) {
      super("plane", figure, PLANE, PLANE_PRESETS);
      this.small = small;
      this.frame = L.frame([0, 0, 520, 416], [-2.5, 2.5], [-2, 2]);
      this.panel = L.frame([0, 0, 240, 240], [-REACH, REACH], [-REACH, REACH]);
      this.nets = L.networks.networks.map((stored) => ({ ...stored, net: L.read_network(stored, L.networks.settings) }));
      if (small) this.root.classList.add("lab-small");
      this.build();
    }

    build() {
      const box = element("div", { class: "lab-main" });
      box.innerHTML = L.picture(520, 416, "Prior, datum, posterior and the estimates; described below the controls",
        `<defs>${L.gradient("lab-blue", "--lab-prior")}${L.gradient("lab-gold", "--lab-posterior")}</defs><g class="lab-picture"></g>`, "group");
      this.svg = box.firstChild;
      this.paint = this.svg.querySelector(".lab-picture");
      this.handles = this.make_handles();
      const legend = element("p", { class: "lab-legend" });
      legend.innerHTML = '<i class="lab-key-prior">prior</i> <i class="lab-key-posterior">posterior</i> <i class="lab-key-data">\u25cf naive inverse</i> <i class="lab-key-posterior_mean">\u25a0 posterior mean</i> <i class="lab-key-map">\u25c6 MAP</i>';
      box.append(legend);
      const controls = element("div", { class: "lab-controls" });
      if (!this.small) controls.append(this.choose_preset());
      controls.append(this.small ? this.quantities("delta") : this.quantities("delta", "epsilon", "angle"));
      if (!this.small) controls.append(this.more());
      this.note = element("p", { class: "lab-note" });
      controls.append(this.note);
      this.panels = STRATEGIES.map(([strategy, name]) => this.make_panel(strategy, name));
      const shown = this.small ? [this.panels[1], this.panels[3]] : this.panels;
      const row = element("div", { class: "lab-panels" }, ...shown.map((panel) => panel.box));
      const top = element("div", { class: "lab-top" }, box, controls);
      if (this.small) this.note.replaceWith(row); // there the sentence says it
      this.enter(...(this.small ? [top] : [top, row]));
    }

    more() {
      const keys = [1, 2, 3].flatMap((k) => ["x", "y", "std", "weight"].map((name) => name + k));
      const fold = element("details", { class: "lab-more" }, element("summary", {}, "Datum, strength, bumps"), this.quantities("u", "v", "strength", ...keys));
      return fold;
    }

    make_panel(strategy, name) {
      const box = element("div", { class: `lab-panel lab-of-${strategy}` });
      const drawing = element("div");
      const words = element("p");
      box.append(drawing, words);
      return { strategy, name, box, drawing, words };
    }

    // The datum, the centres of the bumps, and a point of their rim: to be dragged, or moved by the arrow keys.
    make_handles() {
      const group = document.createElementNS("http://www.w3.org/2000/svg", "g");
      this.svg.append(group);
      const kinds = [{ label: "datum", keys: ["u", "v"] }];
      if (!this.small)
        for (const k of [1, 2, 3]) kinds.push({ label: `centre of bump ${k}`, keys: [`x${k}`, `y${k}`], bump: k }, { label: `width of bump ${k}`, bump: k, rim: true });
      return kinds.map((kind) => {
        const handle = document.createElementNS("http://www.w3.org/2000/svg", "g");
        handle.setAttribute("class", kind.bump ? (kind.rim ? "lab-handle lab-rim" : "lab-handle lab-centre") : "lab-handle lab-datum");
        handle.setAttribute("role", "button");
        handle.setAttribute("tabindex", "0");
        handle.innerHTML = `<circle r="${kind.rim ? 13 : 22}" class="lab-touch"/><circle r="${kind.bump ? 4.5 : 8}" class="lab-dot"/>`;
        const move = (to) => this.set(this.moved(kind, to));
        handle.addEventListener("pointerdown", (event) => {
          handle.setPointerCapture(event.pointerId);
          event.preventDefault();
          handle.focus({ preventScroll: true });
        });
        handle.addEventListener("pointermove", (event) => {
          if (handle.hasPointerCapture(event.pointerId)) move(this.under(event));
        });
        handle.addEventListener("keydown", (event) => {
          const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
          if (!step) return;
          event.preventDefault();
          move(L.add(this.where(kind), L.times(event.shiftKey ? 0.2 : 0.04, step)));
        });
        group.append(handle);
        return { ...kind, handle };
      });
    }

    under(event) {
      const box = this.svg.getBoundingClientRect();
      return this.frame.back(((event.clientX - box.left) / box.width) * 520, ((event.clientY - box.top) / box.height) * 416);
    }

    where({ keys, bump: k, rim }) {
      const s = this.state;
      return rim ? [s[`x${k}`] + s[`std${k}`], s[`y${k}`]] : keys.map((key) => s[key]);
    }

    moved({ keys, bump: k, rim }, to) {
      const s = this.state;
      if (rim) return { [`std${k}`]: Math.hypot(to[0] - s[`x${k}`], to[1] - s[`y${k}`]) || 0.15 };
      return { [keys[0]]: to[0], [keys[1]]: to[1] };
    }

    // Prior and problem of the state; the same problem with the strength for its noise, which the divergence aims at.
    model() {
      const s = this.state;
      const active = [1, 2, 3].filter((k) => s[`weight${k}`] > 0);
      const bumps = active.length ? active : [1];
      const prior = new L.GaussianMixture(bumps.map((k) => s[`weight${k}`] || 1), bumps.map((k) => [s[`x${k}`], s[`y${k}`]]),
        bumps.map((k) => L.times(s[`std${k}`] ** 2, L.IDENTITY)));
      const problem = L.epsilon_problem(s.epsilon, s.delta, s.angle);
      const aim = L.epsilon_problem(s.epsilon, s.delta * s.strength, s.angle);
      return { prior, problem, aim, c: L.least_curvature(aim, prior) };
    }

    // Which trained network belongs to a strategy here, if any does.
    network(strategy, { prior, problem, aim, c }) {
      const s = this.state;
      const same_prior = Object.keys(PLANE).every((key) => !/\d/.test(key) || s[key] === PLANE[key].value || (key.endsWith("3") && s.weight3 === 0));
      if (!same_prior) return { why: "trained for the bumps of the presets" };
      const { problems } = L.networks.settings;
      const fits = Object.keys(problems).find((name) => {
        const { epsilon, angle, noise_std } = problems[name];
        const operator = epsilon === s.epsilon && (epsilon === 1 || angle === s.angle);
        return operator && (strategy === "approximation" || (noise_std === s.delta && s.strength === 1));
      });
      const find = (name) => this.nets.find((each) => each.problem === name && each.loss === strategy);
      if (fits) return { ...find(fits), trained: true };
      if (strategy !== "divergence") return { why: "trained for other noise or another operator" };
      if (c <= 0) return { why: "Corollary 1 fails: nothing to carry" };
      const old = problems.identity;
      const before = L.epsilon_problem(old.epsilon, old.noise_std, old.angle);
      return { net: new L.CarriedNetwork(find("identity").net, before, aim), before, carried: true };
    }

    // What does not depend on the datum: grids and root mean squares.
    background(points) {
      const { u, v, ...rest } = this.state;
      const key = JSON.stringify([points, rest]);
      if (this.known?.key === key) return this.known;
      const model = this.model();
      const { prior, problem, aim } = model;
      const lines = L.grid_lines(REACH, 0.4, points);
      const families = { mean: new L.Posterior(problem, prior), mode: new L.Posterior(aim, prior) };
      const exact = {
        approximation: (z) => L.naive_inverse(problem, z),
        reconstruction: (z) => families.mean.at(z).mean(),
        divergence: (z) => L.highest_mode(families.mode.at(z)),
      };
      exact.log_det = exact.reconstruction; // the exact map has no formula; the posterior mean is shown beside it
      const draws = this.draws(prior, problem, this.moving ? 40 : 160);
      const strategies = {};
      for (const [strategy] of this.small ? [STRATEGIES[1], STRATEGIES[3]] : STRATEGIES) {
        const network = this.network(strategy, model);
        const invert = (z, near) => network.net.inverse(z, near);
        const image = (line, map) => line.map((point) => map(L.apply(problem.normal_operator, point)));
        const grid = lines.map((line) => (strategy === "approximation" ? line : image(line, exact[strategy])));
        const learned = network.net && lines.map((line, i) =>
          line.map((point, j) => invert(L.apply(problem.normal_operator, point), grid[i][j])));
        const found = { network, grid, learned, exact: exact[strategy] };
        if (network.net) {
          const ends = draws.map(({ z }) => exact[strategy](z));
          const back = draws.map(({ z }, i) => invert(z, ends[i]) ?? ends[i]);
          found.off = rms(back.map((x, i) => L.minus(x, ends[i])));
          found.backward = rms(back.map((x, i) => L.minus(x, draws[i].x)));
          found.forward = rms(draws.map(({ x, z }) => L.minus(network.net.forward_and_jacobian(x).value, z)));
        }
        strategies[strategy] = found;
      }
      return (this.known = { key, ...model, lines, strategies });
    }

    draws(prior, problem, count) {
      const random = L.generator(7);
      return Array.from({ length: count }, () => {
        const x = prior.sample(random);
        return { x, z: problem.normal_data(problem.measure(x, random)) };
      });
    }

    draw() {
      const known = this.background(this.moving ? 21 : 41);
      const { prior, problem, aim, c } = known;
      const f = this.frame;
      const datum = [this.state.u, this.state.v];
      const z = L.apply(problem.normal_operator, datum);
      const belief = L.posterior(problem, prior, z);
      const [mean, covariance, mode] = [belief.mean(), belief.covariance(), L.highest_mode(belief)];
      const noise = L.times(this.state.delta ** 2, L.inverse(problem.normal_operator));
      const failing = c <= 0 ? L.region(f, (x) => L.map_curvature(aim, prior, x)) : "";

      this.paint.innerHTML = L.clouds(f, prior, "lab-blue") +
        prior.means.map((at, k) => L.ellipse(f, at, prior.covariances[k], 1, "lab-rim-line")).join("") + failing +
        L.clouds(f, belief, "lab-gold", 0.8) + L.ellipse(f, datum, noise, 1, "lab-noise") + L.ellipse(f, mean, covariance, QUANTILE, "lab-credible") +
        L.path(L.polyline(f, [datum, mean]), "lab-way lab-posterior_mean") + L.path(L.polyline(f, [datum, mode]), "lab-way lab-map") +
        L.marker(f, mean, "square", "lab-posterior_mean") + L.marker(f, mode, "diamond", "lab-map");
      for (const each of this.handles) {
        const at = this.where(each);
        each.handle.setAttribute("transform", `translate(${f.at(at)})`);
        each.handle.setAttribute("aria-label", each.rim ? `${each.label}: ${number(this.state[`std${each.bump}`])}; arrow keys` : `${each.label} at ${place(at)}; arrow keys`);
        each.handle.style.display = each.bump && this.state[`weight${each.bump}`] === 0 ? "none" : "";
      }

      const wide = c > 0 ? Infinity : 0.5;
      for (const panel of this.panels) {
        const part = known.strategies[panel.strategy];
        if (part) this.draw_panel(panel, part, known, z, wide);
      }
      const holds = c > 0
        ? `Corollary 1 applies with c = ${fine(c)}.`
        : "Corollary 1 fails: in the shaded region the best map of the divergence folds, and the MAP estimate jumps where lines break off.";
      this.note.textContent = holds;
      return `Noise ${number(this.state.delta)}. Datum at ${place(datum)}: posterior mean ${place(mean)}, MAP estimate ${place(mode)}. ` +
        `${this.described(known, z)} ${holds}`;
    }

    draw_panel(panel, { network, grid, learned, exact, off, backward, forward }, known, z, tear) {
      const f = this.panel;
      const shape = STRATEGIES.find(([strategy]) => strategy === panel.strategy)[2];
      const at = network.net && network.net.inverse(z, exact(z));
      const fails = panel.strategy === "divergence" && known.c <= 0 ? L.region(f, (x) => L.map_curvature(known.aim, known.prior, x), 60) : "";
      panel.drawing.innerHTML = L.picture(240, 240, `Grid moved by: ${panel.name}`,
        fails + known.prior.means.map((mean, k) => L.ellipse(f, mean, known.prior.covariances[k], 1, "lab-rim-line")).join("") +
        L.grid(f, grid, `lab-exact lab-${panel.strategy === "log_det" ? "posterior_mean" : panel.strategy}`, panel.strategy === "divergence" ? tear : Infinity) +
        (learned ? L.grid(f, learned, "lab-learned") : "") + L.marker(f, exact(z), shape, `lab-${panel.strategy}`, 4) +
        (at ? L.marker(f, at, "circle", "lab-net", 2) : ""));
      const title = panel.strategy === "log_det" ? "log-determinant" : panel.strategy;
      const lines = [`<b>${title}</b> <span>\u2192 ${panel.name}</span>`];
      if (!network.net) lines.push(`<i>${network.why}</i>`);
      else if (panel.strategy === "log_det") lines.push(`network off its exact map by ${fine(network.distance)}, off the mean by ${fine(off)}`);
      else lines.push(`${network.carried ? "carried network" : "network"} off by ${fine(off)}`);
      if (network.net && !network.carried && !this.small) lines.push(`error of x ${number(backward)}, of z ${number(forward)}`);
      if (network.carried && at) {
        const bound = L.carried_bound(network.net, network.before, known.prior, at, known.c);
        lines.push(`at the datum ${fine(L.norm(L.minus(at, exact(z))))} \u2264 bound ${fine(bound)}`);
      }
      const words = lines.join("<br>");
      if (panel.words.innerHTML !== words) panel.words.innerHTML = words;
    }

    described({ strategies }) {
      const parts = Object.entries(strategies).filter(([, part]) => part.network.net)
        .map(([name, part]) => `${name === "log_det" ? "log-determinant" : name} ${fine(part.off)}`);
      return parts.length ? `Trained networks are off the exact estimators by: ${parts.join(", ")}.` : "No trained network applies here.";
    }
  }

  // --- Start ---------------------------------------------------------------------------------------------------
  L.frames = [];
  L.View = View;
  L.views = {};
  L.tools = { element, field, number, fine, place };
  L.plane = { PLANE, REACH };
  L.builders = { plane: (figure) => new Plane(figure, figure.id !== "fig-lab-plane") };

  // A figure becomes a view when it comes near: nothing is computed for what nobody sees.
  addEventListener("DOMContentLoaded", () => {
    const near = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        near.unobserve(target);
        const name = target.id.split("-").at(-1);
        L.views[name] = L.builders[name](target);
      }
    }, { rootMargin: "400px" });
    for (const figure of document.querySelectorAll("figure.laboratory")) near.observe(figure);
  });
  addEventListener("hashchange", () => {
    for (const view of Object.values(L.views)) {
      view.reset(view.preset);
      view.read_address();
      view.show();
    }
  });
})();
