// The mathematics of the laboratory, in the names of the library invlib. Points are pairs [x, y], matrices [a, b, c, d].
// One function holds it all, so that a worker can be given its text: pages opened from disk load no script into a worker.
function mathematics() {
  "use strict";
  const IDENTITY = [1, 0, 0, 1];

  // --- Points and matrices ---------------------------------------------------------------
  const add = (v, w) => [v[0] + w[0], v[1] + w[1]];
  const minus = (v, w) => [v[0] - w[0], v[1] - w[1]];
  const times = (t, v) => v.map((entry) => t * entry);
  const dot = (v, w) => v[0] * w[0] + v[1] * w[1];
  const norm = (v) => Math.hypot(v[0], v[1]);
  const apply = ([a, b, c, d], [x, y]) => [a * x + b * y, c * x + d * y];
  const product = ([a, b, c, d], [e, f, g, h]) => [a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h];
  const transpose = ([a, b, c, d]) => [a, c, b, d];
  const sum = (m, n) => m.map((entry, i) => entry + n[i]);
  const determinant = ([a, b, c, d]) => a * d - b * c;
  const inverse = ([a, b, c, d]) => times(1 / (a * d - b * c), [d, -b, -c, a]);
  const solve = ([a, b, c, d], [x, y]) => {
    const scale = 1 / (a * d - b * c);
    return [scale * (d * x - b * y), scale * (a * y - c * x)];
  };

  // Eigenvalues, the smaller first, and the unit eigenvector of the larger one, of a symmetric matrix.
  function eigen([a, b, , d]) {
    const mean = (a + d) / 2;
    const gap = Math.hypot((a - d) / 2, b);
    const angle = Math.atan2(2 * b, a - d) / 2;
    return { values: [mean - gap, mean + gap], vector: [Math.cos(angle), Math.sin(angle)] };
  }

  // --- Priors ------------------------------------------------------------------------------
  // p(x) = sum_k w_k N(x; mu_k, Sigma_k)
  class GaussianMixture {
    constructor(weights, means, covariances) {
      const total = weights.reduce((all, weight) => all + weight);
      this.weights = weights.map((weight) => weight / total);
      this.means = means;
      this.covariances = covariances;
      this.precisions = covariances.map(inverse);
      this.log_weights = this.weights.map(Math.log);
      this.log_dets = covariances.map((covariance) => Math.log(determinant(covariance)));
    }

    // log p, its gradient and its Hessian [h11, h12, h22] in one pass: written out, since grids ask for it so often.
    derivatives(x) {
      const count = this.weights.length;
      const logs = (this.logs ??= new Float64Array(count));
      let largest = -Infinity;
      for (let k = 0; k < count; k++) {
        const u = x[0] - this.means[k][0];
        const v = x[1] - this.means[k][1];
        const [a, b, , d] = this.precisions[k];
        logs[k] = this.log_weights[k] - 0.5 * (this.log_dets[k] + a * u * u + 2 * b * u * v + d * v * v);
        largest = Math.max(largest, logs[k]);
      }
      let total = 0;
      for (let k = 0; k < count; k++) total += Math.exp(logs[k] - largest);

      let s1 = 0, s2 = 0, h11 = 0, h12 = 0, h22 = 0;
      for (let k = 0; k < count; k++) {
        const share = Math.exp(logs[k] - largest) / total; // p(k | x)
        const u = x[0] - this.means[k][0];
        const v = x[1] - this.means[k][1];
        const [a, b, , d] = this.precisions[k];
        const g1 = -a * u - b * v;
        const g2 = -b * u - d * v;
        s1 += share * g1;
        s2 += share * g2;
        h11 += share * (g1 * g1 - a);
        h12 += share * (g1 * g2 - b);
        h22 += share * (g2 * g2 - d);
      }
      return {
        log_prob: largest + Math.log(total) - Math.log(2 * Math.PI),
        score: [s1, s2],
        hessian: [h11 - s1 * s1, h12 - s1 * s2, h12 - s1 * s2, h22 - s2 * s2],
      };
    }

    log_prob(x) {
      return this.derivatives(x).log_prob;
    }

    score(x) {
      return this.derivatives(x).score;
    }

    hessian(x) {
      return this.derivatives(x).hessian;
    }

    mean() {
      return this.means.reduce((all, mean, k) => add(all, times(this.weights[k], mean)), [0, 0]);
    }

    covariance() {
      const centre = this.mean();
      return this.means.reduce((all, mean, k) => {
        const [u, v] = minus(mean, centre);
        return sum(all, times(this.weights[k], sum(this.covariances[k], [u * u, u * v, u * v, v * v])));
      }, [0, 0, 0, 0]);
    }

    // One point: a component by its weight, then a point of its Gaussian. `random` gives uniform numbers.
    sample(random) {
      let k = 0;
      for (let left = random() - this.weights[0]; left > 0 && k + 1 < this.weights.length; left -= this.weights[k]) k++;
      const [a, b, , d] = this.covariances[k];
      const [first, second] = normal_pair(random);
      const root = Math.sqrt(a);
      return add(this.means[k], [root * first, (b * first) / root + Math.sqrt(d - (b * b) / a) * second]);
    }
  }

  // A uniform generator with a seed (Marsaglia's xorshift), and two standard normal numbers (Box and Muller).
  function generator(seed) {
    let state = (seed * 2654435761) >>> 0 || 1;
    return () => {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      return ((state >>> 0) + 0.5) / 2 ** 32;
    };
  }

  function normal_pair(random) {
    const radius = Math.sqrt(-2 * Math.log(random()));
    const angle = 2 * Math.PI * random();
    return [radius * Math.cos(angle), radius * Math.sin(angle)];
  }

  // --- Problems ----------------------------------------------------------------------------
  // y = A x + noise of standard deviation delta; the data are z = A* y.
  class LinearProblem {
    constructor(operator, noise_std) {
      this.operator = operator;
      this.noise_std = noise_std;
      this.normal_operator = product(transpose(operator), operator);
    }

    normal_data(y) {
      return apply(transpose(this.operator), y);
    }

    measure(x, random) {
      return add(apply(this.operator, x), times(this.noise_std, normal_pair(random)));
    }
  }

  // A = V diag(1, epsilon) V*: the direction at this angle, in degrees, is weakened by epsilon.
  function epsilon_problem(epsilon, noise_std, angle) {
    const alpha = (angle * Math.PI) / 180;
    const [c, s] = [Math.cos(alpha), Math.sin(alpha)];
    const off = (epsilon - 1) * c * s;
    return new LinearProblem([s * s + epsilon * c * c, off, off, c * c + epsilon * s * s], noise_std);
  }

  // --- Exact estimators ----------------------------------------------------------------------
  // p(x | z) is again a mixture: covariances (Sigma_k^-1 + H / delta^2)^-1, means and weights that depend on z.
  class Posterior {
    constructor(problem, prior) {
      const variance = problem.noise_std ** 2;
      this.problem = problem;
      this.prior = prior;
      this.covariances = prior.precisions.map((precision) =>
        inverse(sum(precision, times(1 / variance, problem.normal_operator))));
      this.pulls = prior.precisions.map((precision, k) => apply(precision, prior.means[k]));
      this.constants = prior.means.map((mean, k) =>
        prior.log_weights[k] + 0.5 * (Math.log(determinant(this.covariances[k])) - prior.log_dets[k] - dot(mean, this.pulls[k])));
      this.mixture = new GaussianMixture(prior.weights, prior.means, this.covariances);
    }

    // The mixture for one z, and the logarithm of the integral of exp((<z, x> - J_0(x)) / delta^2): Lambda / delta^2.
    at(z) {
      const variance = this.problem.noise_std ** 2;
      const mixture = this.mixture;
      const logs = [];
      mixture.means = this.pulls.map((pull, k) => {
        const shift = [pull[0] + z[0] / variance, pull[1] + z[1] / variance];
        const mean = apply(this.covariances[k], shift);
        logs.push(this.constants[k] + 0.5 * dot(mean, shift));
        return mean;
      });
      const largest = Math.max(...logs);
      const mass = logs.reduce((all, log) => all + Math.exp(log - largest), 0);
      this.log_mass = largest + Math.log(mass);
      mixture.log_weights = logs.map((log) => log - this.log_mass);
      mixture.weights = mixture.log_weights.map(Math.exp);
      return mixture;
    }
  }

  const posterior = (problem, prior, z) => new Posterior(problem, prior).at(z);
  const posterior_mean = (problem, prior, z) => posterior(problem, prior, z).mean();
  const posterior_covariance = (problem, prior, z) => posterior(problem, prior, z).covariance();
  const map_estimate = (problem, prior, z) => highest_mode(posterior(problem, prior, z));
  const naive_inverse = (problem, z) => solve(problem.normal_operator, z);

  // The least eigenvalue of H - delta^2 Hess log p: Corollary 1 applies where it is at least c > 0 everywhere.
  function map_curvature(problem, prior, x) {
    return eigen(sum(problem.normal_operator, times(-(problem.noise_std ** 2), prior.hessian(x)))).values[0];
  }

  // The least of it over the plane, from a lattice around the bumps.
  function least_curvature(problem, prior, reach = 3.2, count = 65) {
    let least = Infinity;
    for (let i = 0; i < count; i++)
      for (let j = 0; j < count; j++) {
        const x = [reach * ((2 * i) / (count - 1) - 1), reach * ((2 * j) / (count - 1) - 1)];
        least = Math.min(least, map_curvature(problem, prior, x));
      }
    return least;
  }

  // The global mode of a mixture. At a point that is higher than the best so far, some component reaches that height
  // less log K; so only such components, and what lies between two of them, can lead to a higher mode.
  function highest_mode(mixture) {
    const count = mixture.weights.length;
    const peaks = mixture.log_weights.map((log, k) => log - 0.5 * mixture.log_dets[k] - Math.log(2 * Math.PI));
    const order = [...peaks.keys()].sort((i, j) => peaks[j] - peaks[i]);
    let best = climb(mixture, mixture.means[order[0]]);
    const may_be_higher = (k) => peaks[k] > best.height - Math.log(count);
    const attempt = (start) => {
      const found = climb(mixture, start);
      if (found.height > best.height) best = found;
    };
    for (let i = 1; i < count; i++) {
      if (!may_be_higher(order[i])) break;
      attempt(mixture.means[order[i]]);
      for (let j = 0; j < i; j++)
        for (const share of [0.25, 0.5, 0.75]) attempt(ridge(mixture, order[j], order[i], share));
    }
    return best.point;
  }

  // Where both components have parallel gradients: the modes of a mixture of two lie on this curve.
  function ridge(mixture, i, j, share) {
    const first = times(1 - share, mixture.precisions[i]);
    const second = times(share, mixture.precisions[j]);
    return solve(sum(first, second), add(apply(first, mixture.means[i]), apply(second, mixture.means[j])));
  }

  // One Newton step towards a mode. Where it does not lead upwards, the point moves to the mean of the components'
  // means, weighted by precision and responsibility: that never leads downwards.
  function newton_step(mixture, point, here = mixture.derivatives(point)) {
    const { score, hessian, log_prob } = here;
    if (hessian[0] < 0 && determinant(hessian) > 0) {
      const next = minus(point, solve(hessian, score));
      if (mixture.log_prob(next) >= log_prob - 1e-12) return next;
    }
    return mean_shift(mixture, point);
  }

  function climb(mixture, start) {
    let point = start;
    let here = mixture.derivatives(point);
    for (let iteration = 0; iteration < 200; iteration++) {
      const next = newton_step(mixture, point, here);
      const moved = Math.hypot(next[0] - point[0], next[1] - point[1]);
      point = next;
      here = mixture.derivatives(point);
      if (moved < 1e-10) break;
    }
    return { point, height: here.log_prob };
  }

  function mean_shift(mixture, x) {
    let matrix = [0, 0, 0, 0];
    let right = [0, 0];
    const logs = mixture.means.map((mean, k) => {
      const difference = minus(x, mean);
      return mixture.log_weights[k] - 0.5 * (mixture.log_dets[k] + dot(difference, apply(mixture.precisions[k], difference)));
    });
    const largest = Math.max(...logs);
    logs.forEach((log, k) => {
      const precision = times(Math.exp(log - largest), mixture.precisions[k]);
      matrix = sum(matrix, precision);
      right = add(right, apply(precision, mixture.means[k]));
    });
    return solve(matrix, right);
  }

  // --- Theorem 2: the map whose inverse is the MAP estimator -----------------------------------
  // phi*(x) = H x - strength^2 s(x)
  function divergence_minimizer(problem, prior, x, strength = problem.noise_std) {
    return minus(apply(problem.normal_operator, x), times(strength ** 2, prior.score(x)));
  }

  // --- One dimension: the first coordinate, beside a second one that nobody looks at -----------------
  const on_the_line = (weights, means, stds) =>
    new GaussianMixture(weights, means.map((mean) => [mean, 0]), stds.map((std) => [std ** 2, 0, 0, 1]));

  // Everything about one z on the line, A = 1: densities are tabulated on the points x.
  function line_posterior(prior, noise_std, z, x, temperature = 1) {
    const logs = x.map((t) => (prior.log_prob([t, 0]) - (z - t) ** 2 / (2 * noise_std ** 2)) / temperature);
    const largest = Math.max(...logs);
    const density = logs.map((log) => Math.exp(log - largest));
    const step = x[1] - x[0];
    const mass = step * density.reduce((all, value) => all + value);
    const mean = (step * density.reduce((all, value, i) => all + value * x[i], 0)) / mass;
    return { density: density.map((value) => value / mass), mean };
  }

  // On the line: Lambda(z) = delta^2 log int exp((z x - J_0(x)) / delta^2) dx and J_0*(z) = max_x z x - J_0(x), and
  // their slopes, posterior mean and MAP. What the second coordinate contributes is taken off.
  function potentials(problem, prior, z) {
    const variance = problem.noise_std ** 2;
    const family = new Posterior(problem, prior);
    const mixture = family.at([z, 0]);
    const [mean, mode] = [mixture.mean()[0], highest_mode(mixture)[0]];
    const second = 0.5 * Math.log(variance / (1 + variance));
    const lambda = variance * (family.log_mass - second);
    const conjugate = z * mode - mode ** 2 / 2 + variance * (prior.log_prob([mode, 0]) + 0.5 * Math.log(2 * Math.PI));
    return { mean, mode, lambda, conjugate };
  }

  // --- Gaussian prior: each strategy multiplies by a number a(h), and reconstructs by 1 / a ------------
  const FILTERS = {
    approximation: (h) => h,
    reconstruction: (h, noise_std, std) => h + (noise_std / std) ** 2,
    log_det: (h, noise_std, std) => (h + Math.sqrt(h ** 2 + (2 * noise_std / std) ** 2)) / 2,
    divergence: (h, noise_std, std) => h + (noise_std / std) ** 2,
  };
  const reachable = (blocks, lipschitz) => [(1 - lipschitz) ** blocks, (1 + lipschitz) ** blocks];
  const clip = (a, [low, high]) => Math.min(high, Math.max(low, a));

  // --- Networks --------------------------------------------------------------------------------
  // x + f(x), f a perceptron with two hidden layers and the activation sqrt(u^2 + 1/4) - 1/2, Lip(f) < 1.
  class DenseBlock {
    constructor(layers, width) {
      Object.assign(this, layers); // w1 (width, 2), b1, w2 (width, width), b2, w3 (2, width), b3, row after row
      this.width = width;
      this.memory = new Float64Array(6 * width);
    }

    // The value and its Jacobian, which is carried forward with the value: both columns pass each layer as it does.
    forward_and_jacobian([x, y]) {
      const { w1, b1, w2, b2, w3, b3, width, memory } = this;
      for (let i = 0; i < width; i++) {
        const u = w1[2 * i] * x + w1[2 * i + 1] * y + b1[i];
        const root = Math.sqrt(u * u + 0.25);
        memory[i] = root - 0.5;
        memory[width + i] = (u / root) * w1[2 * i];
        memory[2 * width + i] = (u / root) * w1[2 * i + 1];
      }
      let [p, q] = b3;
      let a = 1, b = 0, c = 0, d = 1;
      for (let i = 0; i < width; i++) {
        let u = b2[i], first = 0, second = 0;
        for (let j = 0; j < width; j++) {
          const weight = w2[i * width + j];
          u += weight * memory[j];
          first += weight * memory[width + j];
          second += weight * memory[2 * width + j];
        }
        const root = Math.sqrt(u * u + 0.25);
        const slope = u / root;
        const [top, bottom] = [w3[i], w3[width + i]];
        p += top * (root - 0.5);
        q += bottom * (root - 0.5);
        a += top * slope * first;
        b += top * slope * second;
        c += bottom * slope * first;
        d += bottom * slope * second;
      }
      return { value: [x + p, y + q], jacobian: [a, b, c, d] };
    }

    inverse(z) {
      return newton((x) => this.forward_and_jacobian(x), z, z, { contracts: true }).x;
    }
  }

  // Newton's method for map(x) = z, safeguarded: a step is halved until the residual shrinks as a Newton step of that
  // length promises, less a margin. For a block x + f(x) the fixed-point step z - f(x) follows after three halvings:
  // it contracts by Lip(f) < 1 whatever the point. Where nothing is gained any more, what is left is rounding.
  function newton(map, z, start, { contracts = false, tol = 1e-11 } = {}) {
    const at = (x) => {
      const { value, jacobian } = map(x);
      const residual = minus(value, z);
      return { x, jacobian, residual, size: norm(residual) };
    };
    const shortest = contracts ? 0.125 : 1e-4;
    let here = at(start);
    for (let iteration = 0; iteration < 200 && here.size > tol; iteration++) {
      const direction = solve(here.jacobian, here.residual);
      let next = null;
      for (let length = 1; length >= shortest && !next; length /= 2) {
        const there = at(minus(here.x, times(length, direction)));
        if (there.size <= (1 - 0.25 * length) * here.size) next = there;
      }
      if (!next && contracts) next = at(minus(here.x, here.residual));
      if (!next || next.size >= here.size) break;
      here = next;
    }
    return here;
  }

  // phi(x) = last (Id + f_K) o ... o (Id + f_1) (first (x - centre)) + H centre
  class IResNet {
    constructor(first, blocks, last, centre = [0, 0], image = [0, 0]) {
      Object.assign(this, { first, blocks, last, centre, image });
    }

    forward(x) {
      return this.forward_and_jacobian(x).value;
    }

    forward_and_jacobian(x) {
      let value = apply(this.first, minus(x, this.centre));
      let jacobian = this.first;
      for (const block of this.blocks) {
        const step = block.forward_and_jacobian(value);
        value = step.value;
        jacobian = product(step.jacobian, jacobian);
      }
      return { value: add(apply(this.last, value), this.image), jacobian: product(this.last, jacobian) };
    }

    inverse(z) {
      let x = solve(this.last, minus(z, this.image));
      for (let k = this.blocks.length - 1; k >= 0; k--) x = this.blocks[k].inverse(x);
      return add(solve(this.first, x), this.centre);
    }
  }

  // A stored network: sixteen bits a weight, one scale for each of the six arrays of all blocks.
  function read_network(stored, { blocks, width, problems }) {
    const bytes = Uint8Array.from(atob(stored.weights), (letter) => letter.charCodeAt(0));
    const numbers = new Int16Array(bytes.buffer);
    const sizes = { w1: 2 * width, b1: width, w2: width * width, b2: width, w3: 2 * width, b3: 2 };
    const layers = Array.from({ length: blocks }, () => ({}));
    let at = 0;
    Object.entries(sizes).forEach(([name, size], i) => {
      for (const layer of layers) {
        layer[name] = Float64Array.from(numbers.subarray(at, at + size), (entry) => entry * stored.scales[i]);
        at += size;
      }
    });
    const { first, last } = problems[stored.problem];
    return new IResNet(first, layers.map((layer) => new DenseBlock(layer, width)), last);
  }

  // A network of divergence training carried to another problem: phi_rho(x) = H' x - rho (H x - phi(x)) with
  // rho = (delta' / strength)^2. It is no composition of blocks, so all of it is inverted by a damped Newton method.
  class CarriedNetwork {
    constructor(net, old, problem, strength = old.noise_std) {
      Object.assign(this, { net, problem, rho: (problem.noise_std / strength) ** 2 });
      this.h = old.normal_operator;
    }

    forward_and_jacobian(x) {
      const { value, jacobian } = this.net.forward_and_jacobian(x);
      const h = this.problem.normal_operator;
      return {
        value: minus(apply(h, x), times(this.rho, minus(apply(this.h, x), value))),
        jacobian: sum(h, times(-this.rho, sum(this.h, times(-1, jacobian)))),
      };
    }

    // Null where the method does not arrive.
    inverse(z, start) {
      const { x, size } = newton((point) => this.forward_and_jacobian(point), z, start);
      return size < 1e-6 ? x : null;
    }
  }

  // |x - x_MAP(z)| is at most this, for z = phi_rho(x): rho / c' times the error of phi at x.
  function carried_bound(carried, old, prior, x, c) {
    const exact = divergence_minimizer(old, prior, x);
    return (carried.rho / c) * norm(minus(carried.net.forward(x), exact));
  }

  return {
    IDENTITY, add, minus, times, dot, norm, apply, product, transpose, sum, determinant, inverse, solve, eigen,
    GaussianMixture, LinearProblem, Posterior, epsilon_problem, generator, normal_pair, posterior, posterior_mean,
    posterior_covariance, map_estimate, naive_inverse, map_curvature, least_curvature, highest_mode, newton_step,
    divergence_minimizer, on_the_line, line_posterior, potentials, FILTERS, reachable, clip,
    DenseBlock, IResNet, read_network, CarriedNetwork, carried_bound,
  };
}

var Laboratory = { ...globalThis.Laboratory, ...mathematics(), source: mathematics };
