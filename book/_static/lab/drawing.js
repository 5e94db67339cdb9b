// Pictures of the laboratory: functions from numbers to SVG text, without state. Colours are those of lab.css.
Object.assign(Laboratory, (() => {
  "use strict";
  const L = Laboratory;
  const short = (number) => +number.toFixed(1);

  // --- Coordinates: a rectangle of the drawing, and the ranges of both axes that it shows -----------------
  function frame([left, top, width, height], [x_low, x_high], [y_low, y_high]) {
    const X = (x) => left + ((x - x_low) / (x_high - x_low)) * width;
    const Y = (y) => top + ((y_high - y) / (y_high - y_low)) * height;
    return {
      box: [left, top, width, height], x: [x_low, x_high], y: [y_low, y_high], X, Y,
      at: ([x, y]) => `${short(X(x))} ${short(Y(y))}`,
      back: (px, py) => [x_low + ((px - left) / width) * (x_high - x_low), y_high - ((py - top) / height) * (y_high - y_low)],
    };
  }

  // --- In the plane -----------------------------------------------------------------------------------
  const path = (d, style) => `<path d="${d}" class="${style}"/>`;
  const text = (place, words, style = "", anchor = "middle") =>
    `<text x="${short(place[0])}" y="${short(place[1])}" text-anchor="${anchor}" class="${style}">${words}</text>`;

  // The points of a polyline; a new piece begins after a null, and where two neighbours are further apart than `tear`.
  function polyline(f, points, tear = Infinity) {
    let d = "";
    let last = null;
    for (const point of points) {
      if (point) d += (last && Math.hypot(point[0] - last[0], point[1] - last[1]) <= tear ? "L" : "M") + f.at(point);
      last = point;
    }
    return d;
  }

  const grid = (f, lines, style, tear) => path(lines.map((line) => polyline(f, line, tear)).join(""), style);

  // {x : (x - mean)* covariance^-1 (x - mean) = radius^2}
  function ellipse(f, mean, covariance, radius, style, fill) {
    const { values, vector } = L.eigen(covariance);
    const scale = (f.X(1) - f.X(0)) * radius;
    const angle = (-Math.atan2(vector[1], vector[0]) * 180) / Math.PI;
    const [small, large] = values.map((value) => short(scale * Math.sqrt(Math.max(value, 0))));
    const paint = fill ? ` fill="url(#${fill[0]})" fill-opacity="${fill[1].toFixed(3)}"` : "";
    return `<ellipse rx="${large}" ry="${small}" transform="translate(${f.at(mean)}) rotate(${short(angle)})" class="${style}"${paint}/>`;
  }

  // A Gaussian as a cloud: the gradient of paint falls like its density, up to three standard deviations.
  function gradient(name, colour) {
    const stops = [0, 1, 2, 3, 4, 5, 6].map((i) =>
      `<stop offset="${short(i * 16.667)}%" style="stop-color:var(${colour});stop-opacity:${(Math.exp(-i * i / 8) - Math.exp(-4.5)).toFixed(3)}"/>`);
    return `<radialGradient id="${name}">${stops.join("")}</radialGradient>`;
  }

  function clouds(f, mixture, name, strength = 0.75) {
    const heights = mixture.weights.map((weight, k) => weight / Math.sqrt(L.determinant(mixture.covariances[k])));
    const highest = Math.max(...heights);
    return mixture.means.map((mean, k) =>
      heights[k] > 0.004 * highest ? ellipse(f, mean, mixture.covariances[k], 3, "", [name, strength * (heights[k] / highest)]) : "").join("");
  }

  // One row of cells after the other: where a function of the plane is at most zero.
  function region(f, value, count = 90) {
    const [w, h] = [f.box[2] / count, f.box[3] / count];
    let d = "";
    for (let row = 0; row < count; row++)
      for (let column = 0, run = 0; column <= count; column++) {
        const [px, py] = [f.box[0] + (column + 0.5) * w, f.box[1] + (row + 0.5) * h];
        if (column < count && value(f.back(px, py)) <= 0) run++;
        else if (run) {
          d += `M${short(px - (run + 0.5) * w)} ${short(py - h / 2)}h${short(run * w)}v${short(h)}h${short(-run * w)}z`;
          run = 0;
        }
      }
    return d && path(d, "lab-fails");
  }

  const MARKERS = {
    circle: (x, y, r) => `<circle cx="${x}" cy="${y}" r="${r}"`,
    square: (x, y, r) => `<rect x="${short(x - r)}" y="${short(y - r)}" width="${2 * r}" height="${2 * r}"`,
    diamond: (x, y, r) => `<path d="M${x} ${short(y - 1.35 * r)}L${short(x + 1.35 * r)} ${y}L${x} ${short(y + 1.35 * r)}L${short(x - 1.35 * r)} ${y}z"`,
    triangle: (x, y, r) => `<path d="M${x} ${short(y - 1.3 * r)}L${short(x + 1.2 * r)} ${short(y + r)}L${short(x - 1.2 * r)} ${short(y + r)}z"`,
  };
  const marker = (f, point, shape, style, size = 5) =>
    `${MARKERS[shape](short(f.X(point[0])), short(f.Y(point[1])), size)} class="lab-marker ${style}"/>`;

  // --- Curves -------------------------------------------------------------------------------------------
  function axes(f, horizontal, vertical, ticks = [[], []]) {
    const [left, top, width, height] = f.box;
    const bottom = top + height;
    const marks = ticks[0].map((t) => path(`M${short(f.X(t))} ${bottom}v4`, "lab-axis") + text([f.X(t), bottom + 16], t, "lab-tick"))
      .concat(ticks[1].map((t) => path(`M${left} ${short(f.Y(t))}h-4`, "lab-axis") + text([left - 7, f.Y(t) + 4], t, "lab-tick", "end")));
    return path(`M${left} ${top}V${bottom}H${left + width}`, "lab-axis") + marks.join("") +
      text([left + width, bottom + 31], horizontal, "lab-label", "end") + text([left - 4, top - 9], vertical, "lab-label", "start");
  }

  const clipped = (f, name, inside) => {
    const [x, y, width, height] = f.box;
    return `<clipPath id="${name}"><rect x="${x}" y="${y}" width="${width}" height="${height}"/></clipPath><g clip-path="url(#${name})">${inside}</g>`;
  };
  const curve = (f, x, values, style) => path(polyline(f, x.map((t, i) => [t, values[i]]).filter((p) => Number.isFinite(p[1]))), `lab-curve ${style}`);
  const area = (f, x, values, style) => path(`${polyline(f, [[x[0], 0], ...x.map((t, i) => [t, values[i]]), [x.at(-1), 0]])}z`, style);
  const vertical = (f, x, style) => path(`M${short(f.X(x))} ${f.box[1]}v${f.box[3]}`, `lab-curve ${style}`);

  // A picture with handles inside is a group; one without is an image.
  const picture = (width, height, label, inside, role = "img") =>
    `<svg viewBox="0 0 ${width} ${height}" role="${role}" aria-label="${label}">${inside}</svg>`;

  // Points a, a + step, ..., b.
  const linspace = (a, b, count) => Array.from({ length: count }, (_, i) => a + ((b - a) * i) / (count - 1));

  // The lines of an equidistant grid: the vertical ones, then the horizontal.
  function grid_lines(reach, spacing, points) {
    const places = linspace(-reach, reach, Math.round((2 * reach) / spacing) + 1);
    const along = linspace(-reach, reach, points);
    return [...places.map((x) => along.map((y) => [x, y])), ...places.map((y) => along.map((x) => [x, y]))];
  }

  return { frame, path, text, polyline, grid, ellipse, gradient, clouds, region, marker, axes, clipped, curve, area, vertical, picture, linspace, grid_lines };
})());
