// A decision as it is shown: whom to send and why, why not the others, what was read, the reasons,
// the plan, and what can be done about it.

import { correction } from "./correction.js";
import { bar, draw, make } from "./dom.js";
import { occlusionView } from "./occlusion.js";
import { planView } from "./plan.js";
import { duration, limit, listed, percent, place } from "./words.js";

const NO_ROBOT = "No Robot";

/** Return the elements of a decision. `asked` is { task, photo }, `again` asks the same anew. */
export function decisionView({ decision, timing, tripMs, asked, again }) {
  return [
    decision.ask ? askAPerson(decision) : null,
    askedFor(asked),
    chosen(decision),
    facts(decision, asked),
    decision.memory.length ? lessonUsed(decision) : null,
    correction({ decision, asked, again }),
    others(decision),
    reasons(decision),
    decision.plan.length ? planView(decision.plan) : null,
    asked.photo ? occlusionView({ decision, asked }) : null,
    make("p", { class: "hint latency" }, latency(timing, tripMs)),
  ].filter(Boolean);
}

/** Return the decision in one sentence, for the status line. */
export function spoken(decision, timing) {
  const send = isNobody(decision) ? "Send nobody" : `Send ${listed(decision.robots)}`;
  const person = decision.ask ? " Ask a person before you act." : "";
  const took = timing.decide ? ` Decided in ${duration(timing.decide)}.` : "";
  const before = decision.lessons.length ? " before the lesson" : "";
  return `${send}, ${percent(decision.confidence)} sure${before}.${person}${took}`;
}

const isNobody = (decision) => decision.robots[0] === NO_ROBOT;
const isTeam = (decision) => decision.plan.length > 1 && decision.robots.length > 1;

function askAPerson(decision) {
  const which = decision.lessons.length ? "Before the lesson the answer was" : "The answer below is";
  const text = `${which} only ${percent(decision.confidence)} sure, too little to act on unseen.`;
  return make(
    "div",
    { class: "note person" },
    icon("person"),
    make("p", {}, make("strong", {}, "Ask a person. "), text),
  );
}

function askedFor({ task, photo }) {
  const words = task ? `“${task}”` : "no words";
  return make(
    "p",
    { class: "asked" },
    photo ? (task ? "Asked, with a photo: " : "Asked: a photo, ") : "Asked: ",
    make("q", { class: "plain" }, words),
  );
}

function chosen(decision) {
  // A lesson changes the robots; what is known of being right is known of the answer before it.
  const sure = `${percent(decision.confidence)} sure${decision.lessons.length ? " before the lesson" : ""}`;
  const head = isNobody(decision) ? "Send nobody" : isTeam(decision) ? "Send this team" : "Send";
  const cards = decision.robots.map((name, i) => robotCard(decision, name, i));
  return make(
    "section",
    { class: "chosen", "aria-label": "Whom to send" },
    make(
      "div",
      { class: "sure" },
      make("h3", {}, head),
      make("span", { class: "sure-share" }, sure),
      bar(decision.confidence, "How sure the whole answer is"),
    ),
    make("ul", { class: "cards" }, cards),
  );
}

function robotCard(decision, name, i) {
  const share = decision.probabilities[name];
  const rank =
    name === NO_ROBOT
      ? ""
      : i === 0
        ? decision.robots.length > 1
          ? "send first"
          : ""
        : isTeam(decision)
          ? "in the team"
          : "would do as well";
  const why = whyChosen(decision, name);
  return make(
    "li",
    { class: "card sent" },
    make(
      "div",
      { class: "card-head" },
      icon(name === NO_ROBOT ? "cross" : "check"),
      make("strong", { class: "name" }, name),
      make("span", { class: "rank" }, rank),
    ),
    share === undefined
      ? null
      : make(
          "div",
          { class: "share" },
          bar(share, `Chance that ${name} belongs to the answer`),
          make("span", {}, percent(share)),
        ),
    why ? make("p", { class: "why" }, why) : null,
  );
}

/** Return the facts that the line on robots states for a chosen one; null if it has none. */
function whyChosen(decision, name) {
  const line = (decision.reasoning[2] ?? "").replace(/^Robots: /, "");
  const next = decision.robots[decision.robots.indexOf(name) + 1];
  const [other] = Object.keys(decision.rejected);
  const start = line.startsWith(`${name}: `) ? 0 : line.indexOf(`; ${name}: `) + 2;
  if (start === 1) return null;
  const from = start + name.length + 2;
  const ends = [next && `; ${next}: `, other && `; not ${other}: `]
    .map((mark) => (mark ? line.indexOf(mark, from) : -1))
    .filter((at) => at >= 0);
  return line.slice(from, Math.min(line.length, ...ends)) || null;
}

function facts(decision, asked) {
  const { environment, needs } = decision;
  const chips = [
    ...needs.actions.map((action) => ["action", action]),
    ...Object.entries(needs.limits).map(([name, value]) => ["limit", limit(name, value)]),
  ].map(([kind, text]) => make("li", { class: `chip ${kind}` }, text));
  return make(
    "dl",
    { class: "facts panel" },
    make("div", {}, make("dt", {}, "Place"), make("dd", {}, place(environment))),
    make(
      "div",
      {},
      make("dt", {}, asked.task ? "Read in the request" : "Read in the photo"),
      make("dd", {}, chips.length ? make("ul", { class: "chips" }, chips) : "nothing that limits the choice"),
    ),
    readOtherwise(decision.read_as),
  );
}

/** Return which mistyped words were read as which; null if none were. */
function readOtherwise(readAs) {
  const pairs = Object.entries(readAs).map(([typed, meant]) => `“${typed}” as “${meant}”`);
  if (!pairs.length) return null;
  return make("div", {}, make("dt", {}, "Mistyped words"), make("dd", {}, `read ${listed(pairs)}`));
}

function lessonUsed(decision) {
  const said = decision.memory.map((line) => line[0].toUpperCase() + line.slice(1));
  const link = make("a", { href: "#lessons" }, "See the lessons");
  return make("div", { class: "note lesson" }, icon("book"), make("p", {}, said.join(" "), ". ", link));
}

function others(decision) {
  const names = Object.keys(decision.rejected);
  const rest = isNobody(decision) ? [] : [NO_ROBOT].filter((name) => name in decision.probabilities);
  const rows = [...names, ...rest].map((name) => {
    const share = decision.probabilities[name] ?? 0;
    return make(
      "li",
      { class: "card" },
      make("div", { class: "card-head" }, icon("cross"), make("strong", { class: "name" }, name)),
      make(
        "div",
        { class: "share" },
        bar(share, `Chance that ${name} belongs to the answer`),
        make("span", {}, percent(share)),
      ),
      make("p", { class: "why" }, decision.rejected[name] ?? "a robot of the fleet can do the core of this"),
    );
  });
  return make(
    "section",
    { "aria-label": "Whom not to send" },
    make("h3", {}, "Why not the others"),
    make("ul", { class: "cards small" }, rows),
  );
}

function reasons(decision) {
  const rows = decision.reasoning.flatMap((line) => {
    const [, head, words] = line.match(/^(\w+): (.*)$/s) ?? [null, "", line];
    return make("div", {}, make("dt", {}, head), make("dd", {}, words));
  });
  return make(
    "section",
    { class: "panel", "aria-label": "Reasons" },
    make("h3", {}, "Reasons, in four lines"),
    make("dl", { class: "reasons" }, rows),
  );
}

function latency(timing, tripMs) {
  const parts = [];
  if (timing.decide !== undefined) parts.push(`decided in ${duration(timing.decide)}`);
  if (timing.queue !== undefined) parts.push(`waited ${duration(timing.queue)} for its turn`);
  parts.push(`${duration(tripMs)} there and back`);
  const text = parts.join(", ");
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}

const SHAPES = {
  check: "M4 10.5l4 4 8-9",
  cross: "M5 5l10 10M15 5L5 15",
  person: "M10 9a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM3 18c0-4 3-6 7-6s7 2 7 6",
  book: "M4 3h9a3 3 0 0 1 3 3v11H7a3 3 0 0 1-3-3zM4 14a3 3 0 0 1 3-3h9",
};

/** Return a small drawing that says nothing that words beside it do not. */
export function icon(shape) {
  const drawing = draw("svg", {
    class: `icon ${shape}`,
    viewBox: "0 0 20 20",
    width: 20,
    height: 20,
    "aria-hidden": "true",
  });
  drawing.append(draw("path", { d: SHAPES[shape] }));
  return drawing;
}
