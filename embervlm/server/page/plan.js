// A plan three times: as a list that everybody can read, as a graph of what waits for what, and as
// a Gantt chart. A step is { subtask, robot, after } and, where the server times plans, start_min,
// duration_min, unit, why and done; `robot` is null where nobody can do it.

import { draw, make } from "./dom.js";
import { minutes } from "./words.js";

const NODE = { width: 208, height: 72, across: 56, down: 20, pad: 8 };
const LINE_CHARACTERS = 27;

/** Return the plan's element. */
export function planView(steps) {
  const parts = [make("h3", {}, "Plan"), stepList(steps)];
  if (steps.length > 1) {
    parts.push(make("h4", {}, "What waits for what"), graph(steps));
  }
  if (steps.length > 1 || isTimed(steps)) {
    parts.push(make("h4", {}, isTimed(steps) ? "When" : "In which order"), gantt(steps));
    if (!isTimed(steps)) {
      parts.push(make("p", { class: "hint" }, "No times are stated for these steps; only their order is."));
    }
  }
  return make("section", { class: "plan panel", "aria-label": "Plan" }, parts);
}

const isTimed = (steps) =>
  steps.length > 0 &&
  steps.every((s) => s.robot === null || Number.isFinite(s.start_min + s.duration_min)) &&
  steps.some((s) => Number.isFinite(s.start_min));

const who = (step) =>
  step.robot === null ? "Nobody" : step.unit > 1 ? `${step.robot} ${step.unit}` : step.robot;

function stepList(steps) {
  const items = steps.map((step) => {
    const facts = [];
    if (step.after.length) facts.push(`after ${step.after.map((i) => i + 1).join(" and ")}`);
    if (Number.isFinite(step.start_min) && Number.isFinite(step.duration_min)) {
      facts.push(`from ${minutes(step.start_min)}, takes ${minutes(step.duration_min)}`);
    }
    if (step.done) facts.push("done");
    const told = facts.length ? make("span", { class: "hint" }, ` (${facts.join("; ")})`) : "";
    const why = step.why ? make("span", { class: "why" }, step.why) : "";
    return make("li", {}, make("strong", {}, who(step)), ": ", step.subtask, told, why);
  });
  return make("ol", { class: "steps" }, items);
}

/** Return each step's column: one behind the last of those it waits for. */
function columnsOf(steps) {
  const columns = steps.map(() => -1);
  const column = (i, waiting) => {
    if (columns[i] < 0 && !waiting.has(i)) {
      const before = steps[i].after.filter((j) => steps[j]);
      const inner = new Set(waiting).add(i);
      columns[i] = 1 + Math.max(-1, ...before.map((j) => column(j, inner)));
    }
    return Math.max(0, columns[i]);
  };
  return steps.map((_, i) => column(i, new Set()));
}

function graph(steps) {
  const columns = columnsOf(steps);
  const rows = columns.map((column, i) => columns.slice(0, i).filter((c) => c === column).length);
  const x = (i) => NODE.pad + columns[i] * (NODE.width + NODE.across);
  const y = (i) => NODE.pad + rows[i] * (NODE.height + NODE.down);
  const width = 2 * NODE.pad + (Math.max(...columns) + 1) * (NODE.width + NODE.across) - NODE.across;
  const height = 2 * NODE.pad + (Math.max(...rows) + 1) * (NODE.height + NODE.down) - NODE.down;

  const edges = steps.flatMap((step, i) =>
    step.after
      .filter((j) => steps[j])
      .map((j) => {
        const [x1, y1] = [x(j) + NODE.width, y(j) + NODE.height / 2];
        const [x2, y2] = [x(i) - 2, y(i) + NODE.height / 2];
        const middle = (x1 + x2) / 2;
        const line = `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2 - 7} ${y2}`;
        const head = `M${x2} ${y2}l-9 -5v10z`;
        return draw(
          "g",
          {},
          draw("path", { class: "edge", d: line }),
          draw("path", { class: "head", d: head }),
        );
      }),
  );
  const nodes = steps.map((step, i) => node(step, i, x(i), y(i)));
  const told = steps.map((step, i) => {
    const after = step.after.length
      ? ` waits for ${step.after.map((j) => j + 1).join(" and ")}`
      : " can begin at once";
    return `step ${i + 1}, ${who(step)},${after}`;
  });
  const label = `Graph: ${told.join("; ")}`;
  const drawing = draw("svg", {
    role: "img",
    "aria-label": label,
    width,
    height,
    viewBox: `0 0 ${width} ${height}`,
  });
  drawing.append(...edges, ...nodes);
  return make(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": "Graph of the plan" },
    drawing,
  );
}

function node(step, i, x, y) {
  const text = (line, row, style) => draw("text", { x: x + 12, y: y + 22 + 19 * row, class: style }, line);
  const lines = wrapped(step.subtask);
  return draw(
    "g",
    { class: step.robot === null ? "node nobody" : "node" },
    draw("title", {}, `${i + 1}. ${who(step)}: ${step.subtask}`),
    draw("rect", { x, y, width: NODE.width, height: NODE.height, rx: 8 }),
    text(`${i + 1}  ${shortened(who(step))}`, 0, "node-robot"),
    lines.map((line, row) => text(line, row + 1, "node-words")),
  );
}

const shortened = (text) => (text.length > LINE_CHARACTERS ? `${text.slice(0, LINE_CHARACTERS - 1)}…` : text);

/** Return a text on two lines at most. */
function wrapped(text) {
  const [first, rest] = text
    .split(/\s+/)
    .reduce(
      ([line, more], word) =>
        !more && `${line} ${word}`.trim().length <= LINE_CHARACTERS
          ? [`${line} ${word}`.trim(), more]
          : [line, `${more} ${word}`.trim()],
      ["", ""],
    );
  return [first, rest].filter(Boolean).map(shortened);
}

function gantt(steps) {
  const timed = isTimed(steps);
  const columns = columnsOf(steps);
  const starts = steps.map((step, i) => (timed ? step.start_min : columns[i]));
  const lengths = steps.map((step) => (timed ? step.duration_min : 1));
  const isPlaced = (i) => Number.isFinite(starts[i]) && steps[i].robot !== null;
  const end = Math.max(...steps.map((_, i) => (isPlaced(i) ? starts[i] + lengths[i] : 0)), timed ? 1e-9 : 1);
  const names = [...new Set(steps.filter((_, i) => isPlaced(i)).map(who))];
  const rows = names.map((name) => {
    const bars = steps.flatMap((step, i) => {
      if (!isPlaced(i) || who(step) !== name) return [];
      const when = timed ? `, minute ${starts[i].toFixed(0)} to ${(starts[i] + lengths[i]).toFixed(0)}` : "";
      const box = make(
        "span",
        { class: "gantt-bar", title: `${i + 1}. ${step.subtask}${when}` },
        String(i + 1),
      );
      box.style.left = `${(100 * starts[i]) / end}%`;
      box.style.width = `${(100 * lengths[i]) / end}%`;
      return [box];
    });
    return make(
      "div",
      { class: "gantt-row" },
      make("span", { class: "gantt-name" }, name),
      make("span", { class: "gantt-track" }, bars),
    );
  });
  const axis = timed
    ? make(
        "div",
        { class: "gantt-axis" },
        make("span", {}, "0 min"),
        make("span", {}, minutes(end / 2)),
        make("span", {}, minutes(end)),
      )
    : make("div", { class: "gantt-axis" }, make("span", {}, "first"), make("span", {}, "last"));
  const told = steps.map((step, i) => {
    if (!isPlaced(i)) return `step ${i + 1}, nobody`;
    if (!timed) return `step ${i + 1}, ${who(step)}, place ${columns[i] + 1}`;
    return `step ${i + 1}, ${who(step)}, from ${minutes(starts[i])} for ${minutes(lengths[i])}`;
  });
  return make("div", { class: "gantt", role: "img", "aria-label": `Chart: ${told.join("; ")}` }, rows, axis);
}
