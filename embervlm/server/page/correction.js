// "That's wrong": who is right, why, and what was misread. It becomes a lesson, is shown, and can be
// undone.

import { KEPT_AUTHOR, call, forget } from "./api.js";
import { keep, kept, make, tell } from "./dom.js";
import { limit, listed, place } from "./words.js";

const NO_ROBOT = "No Robot";
let numbered = 0;

export function correction({ decision, asked, again }) {
  const id = `correction-${(numbered += 1)}`;
  const panel = make("div", { id, hidden: true });
  const toggle = make(
    "button",
    { type: "button", "aria-expanded": "false", "aria-controls": id },
    "That’s wrong",
  );
  const section = make("section", { class: "correction", "aria-label": "Correction" }, toggle, panel);
  const open = (is) => {
    panel.hidden = !is;
    toggle.setAttribute("aria-expanded", String(is));
  };
  toggle.addEventListener("click", () => {
    open(panel.hidden);
    if (!panel.hidden) panel.querySelector("input, button")?.focus();
  });
  const stored = (lesson) => {
    toggle.hidden = true;
    panel.replaceChildren(storedView(lesson, again));
    panel.querySelector("h3").focus();
  };
  const cancel = () => {
    open(false);
    toggle.focus();
  };
  panel.append(correctionForm({ decision, asked, stored, cancel, id }));
  return section;
}

function correctionForm({ decision, asked, stored, cancel, id }) {
  const order = [];
  const said = make("p", { class: "hint", role: "status" }, "Nobody is chosen yet.");
  const boxes = Object.keys(decision.probabilities).map((name) => {
    const box = make("input", { type: "checkbox", value: name });
    box.addEventListener("change", () => {
      const rest = order.filter((one) => one !== name && (name === NO_ROBOT) === (one === NO_ROBOT));
      order.splice(0, order.length, ...rest, ...(box.checked ? [name] : []));
      for (const one of boxes) one.checked = order.includes(one.value);
      said.textContent = order.length ? `Right: ${order.join(", then ")}.` : "Nobody is chosen yet.";
    });
    return box;
  });
  const misread = readings(decision).map(([value, text]) => [
    make("input", { type: "checkbox", value }),
    text,
  ]);
  const note = make("textarea", { id: `${id}-note`, rows: 2, maxlength: 500 });
  const author = make("input", { id: `${id}-author`, maxlength: 60, autocomplete: "name" });
  author.value = kept(KEPT_AUTHOR) ?? "";
  const problem = make("p", { class: "note error", role: "alert", hidden: true });
  const save = make("button", { type: "submit", class: "main" }, "Store this lesson");
  const choice = ([box, text]) => make("label", { class: "check" }, box, ` ${text}`);

  const form = make(
    "form",
    { class: "panel", "aria-label": "Correct this answer" },
    make(
      "fieldset",
      {},
      make("legend", {}, "Who should have been sent? The first one chosen goes first."),
      make(
        "div",
        { class: "choices" },
        boxes.map((box) => choice([box, box.value])),
      ),
      said,
    ),
    make("label", { for: note.id }, "Why, in a few words"),
    note,
    make(
      "fieldset",
      {},
      make("legend", {}, "Was something read that the request does not say?"),
      make("div", { class: "choices" }, misread.map(choice)),
    ),
    make("label", { for: author.id }, "Your name (may be left empty)"),
    author,
    problem,
    make("div", { class: "row" }, save, make("button", { type: "button", on: { click: cancel } }, "Cancel")),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    tell(problem, "");
    if (!order.length && !note.value.trim()) {
      tell(problem, "Choose who is right, or say it in the note.");
      boxes[0].focus();
      return;
    }
    save.disabled = true;
    try {
      const name = author.value.trim();
      keep(KEPT_AUTHOR, name);
      const json = {
        robots: order,
        note: note.value,
        misread: misread.filter(([box]) => box.checked).map(([box]) => box.value),
        ...(asked.task ? { task: asked.task } : {}),
        ...(asked.photo ? { image: await asDataAddress(asked.photo) } : {}),
        ...(name ? { author: name } : {}),
      };
      const { body } = await call("POST", "v1/feedback", { json });
      stored(body);
    } catch (error) {
      tell(problem, error.message);
      save.disabled = false;
    }
  });
  return form;
}

/** Return [name, words] of all that a decision has read and that can have been misread. */
function readings({ needs, environment, plan }) {
  const limits = Object.entries(needs.limits).map(([name, value]) => [name, limit(name, value)]);
  const where = environment === "none" ? [] : [["environment", `place: ${place(environment)}`]];
  const team = [["team", plan.length > 1 ? "that it is a job for a team" : "that it is no job for a team"]];
  return [...limits, ...where, ...team];
}

function storedView(lesson, again) {
  const isQuarantined = lesson.status === "quarantined";
  const head = make(
    "h3",
    { tabindex: -1 },
    isQuarantined
      ? `Lesson ${lesson.id} is stored, but will not be followed`
      : `Lesson ${lesson.id} is stored`,
  );
  const said = make("p", { role: "status", class: "hint" });
  const undo = make("button", { type: "button" }, "Undo");
  const repeat = make(
    "button",
    { type: "button", class: "main", on: { click: again } },
    "Ask the same again",
  );
  undo.addEventListener("click", async () => {
    undo.disabled = true;
    try {
      await forget(lesson.id);
      head.textContent = `Lesson ${lesson.id} is undone`;
      tell(said, "It counts no more.");
      undo.remove();
      head.focus();
    } catch (error) {
      tell(said, error.message);
      undo.disabled = false;
    }
  });
  const why = lesson.metadata.quarantine;
  return make(
    "div",
    { class: "panel stored" },
    head,
    make("p", {}, lesson.content),
    isQuarantined && why ? make("p", { class: "note caution" }, String(why)) : null,
    lesson.metadata.robots?.length
      ? make("p", { class: "hint" }, `Right: ${listed(lesson.metadata.robots.map(String))}.`)
      : null,
    said,
    make("div", { class: "row" }, isQuarantined ? null : repeat, undo),
  );
}

function asDataAddress(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () =>
      reject(new Error("The photo cannot be read any more; choose it again.")),
    );
    reader.readAsDataURL(blob);
  });
}
