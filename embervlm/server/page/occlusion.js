// Which parts of the photo counted: asked for by a button, since it takes as long as 26 decisions.
// The map lies over the square in the photo's middle, which is all that the network reads.

import { call } from "./api.js";
import { draw, make, tell } from "./dom.js";
import { duration, listed, percent } from "./words.js";

// Below this fall of the chance no part is said to have counted, and the deepest colour stands for
// a fall of at least the second.
const LEAST_DROP = 0.02;
const DEEP_DROP = 0.1;
const ROWS = ["top", "middle", "bottom"];
const COLUMNS = ["left", "centre", "right"];

export function occlusionView({ decision, asked }) {
  const image = make("img", { alt: "The photo of this request" });
  const address = URL.createObjectURL(asked.photo);
  image.addEventListener("load", () => URL.revokeObjectURL(address), { once: true });
  image.src = address;
  const frame = make("div", { class: "frame" }, image);
  const said = make("p", { role: "status", class: "hint" });
  const button = make("button", { type: "button" }, "Show which parts counted");
  const hint = make(
    "p",
    { class: "hint" },
    "It covers one part after the other and decides again each time.",
  );

  button.addEventListener("click", async () => {
    button.disabled = true;
    tell(said, "Covering one part after the other …");
    try {
      const form = new FormData();
      form.append("image", asked.photo);
      if (asked.task) form.append("task", asked.task);
      const { body, timing } = await call("POST", "v1/occlusion", { form });
      frame.querySelector("svg")?.remove();
      frame.append(heat(image, body.drops));
      tell(said, sentence(body, decision, timing));
      button.remove();
      hint.remove();
    } catch (error) {
      tell(said, error.message);
      button.disabled = false;
    }
  });
  return make(
    "section",
    { class: "panel looked", "aria-label": "Photo" },
    make("h3", {}, "What in the photo counted"),
    make("div", { class: "looked-parts" }, frame, make("div", {}, said, button, hint)),
  );
}

/** Return the map over a photo: deeper where covering makes the answer less likely. */
function heat(image, drops) {
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  const side = Math.min(width, height);
  const [left, top] = [(width - side) / 2, (height - side) / 2];
  const cell = side / drops.length;
  const most = Math.max(...drops.flat());
  const map = draw("svg", { class: "heat", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  // What the network does not see is dimmed.
  for (const [x, y, w, h] of [
    [0, 0, left, height],
    [left + side, 0, left, height],
    [0, 0, width, top],
    [0, top + side, width, top],
  ]) {
    if (w > 0 && h > 0) map.append(draw("rect", { class: "unseen", x, y, width: w, height: h }));
  }
  if (most >= LEAST_DROP) {
    drops.forEach((row, i) =>
      row.forEach((drop, j) => {
        const share = Math.max(0, drop) / Math.max(most, DEEP_DROP);
        const box = { x: left + j * cell, y: top + i * cell, width: cell, height: cell };
        if (share > 0.05)
          map.append(draw("rect", { class: "counted", ...box, "fill-opacity": (0.65 * share).toFixed(2) }));
        if (drop === most) map.append(draw("rect", { class: "most", ...box }));
      }),
    );
  }
  return map;
}

function sentence({ robots, chance, drops }, decision, timing) {
  const most = Math.max(...drops.flat());
  const row = drops.findIndex((line) => line.includes(most));
  const column = drops[row].indexOf(most);
  const third = (at) => Math.min(2, Math.floor((3 * at) / drops.length));
  const where = `${ROWS[third(row)]} ${COLUMNS[third(column)]}`.replace("middle centre", "centre");
  const who = listed(robots);
  const own = [...robots].sort().join() === [...decision.robots].sort().join();
  const parts = [`The network alone gives ${who} ${percent(chance)}.`];
  if (!own) parts.push("Rules or a lesson then changed the answer.");
  parts.push(
    most < LEAST_DROP
      ? "No single part decides: covering any of them lowers that by less than 2 points."
      : `What counted most lies at the ${where} (outlined): covered with what lies around it, that falls by ${Math.round(100 * most)} points.`,
    "Only the square in the middle is read.",
  );
  if (timing.decide) parts.push(`Measured in ${duration(timing.decide)}.`);
  return parts.join(" ");
}
