// The lessons: a list that can be searched, and forgetting one.

import { call, forget } from "./api.js";
import { byId, make, tell, whenQuiet } from "./dom.js";
import { listed } from "./words.js";

const MOST = 100;

/** Wire the view; return { open }, which reads the list anew. */
export function lessonsView() {
  const words = byId("lesson-words");
  const retired = byId("lesson-retired");
  let asked = 0;

  async function open() {
    const number = (asked += 1);
    const query = new URLSearchParams({ words: words.value.trim(), retired: retired.checked, limit: MOST });
    try {
      const { body } = await call("GET", `v1/memory?${query}`);
      if (number !== asked) return;
      tell(byId("lesson-problem"), "");
      const newest = [...body.lessons].reverse();
      byId("lesson-list").replaceChildren(...newest.map((lesson) => lessonItem(lesson, open)));
      byId("lesson-status").textContent = summary(body, words.value.trim());
    } catch (error) {
      tell(byId("lesson-problem"), error.message);
    }
  }

  words.addEventListener("input", whenQuiet(250, open));
  retired.addEventListener("change", open);
  return { open };
}

function summary({ lessons, total }, words) {
  if (!total)
    return words
      ? "No lesson has all of these words."
      : "There are no lessons yet. “That’s wrong” beside an answer makes one.";
  const count = total === 1 ? "1 lesson" : `${total} lessons`;
  return lessons.length < total
    ? `${count}; the newest ${lessons.length} are shown.`
    : `${count}, the newest first.`;
}

function lessonItem(lesson, changed) {
  const { id, content, status, metadata } = lesson;
  const facts = [
    ["Status", status],
    ["Why it is not followed", metadata.quarantine],
    ["Request", metadata.task],
    ["Photo", metadata.photo ? "yes" : ""],
    ["Right", metadata.robots?.length ? listed(metadata.robots.map(String)) : ""],
    ["By", [metadata.author, time(metadata.time)].filter(Boolean).join(", ")],
  ].filter(([, value]) => value);
  const actions = make("div", { class: "row" });
  const problem = make("p", { class: "problem", role: "alert" });
  const item = make(
    "li",
    { class: `card lesson-item ${status.replace(" ", "-")}` },
    make("h2", {}, `Lesson ${id}`),
    make("p", {}, content),
    make(
      "dl",
      { class: "pairs" },
      facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))),
    ),
    problem,
    actions,
  );
  const drop = async (erase) => {
    try {
      const { restored } = (await forget(id, erase)).body;
      const again = restored.map((older) => ` Lesson ${older}, which it had replaced, is in force again.`);
      await changed();
      const done = erase
        ? `Lesson ${id} is erased.`
        : `Lesson ${id} is forgotten; “embervlm memory rollback” can bring it back.`;
      byId("lesson-status").textContent = [done, ...again].join("");
      byId("lessons-title").focus();
    } catch (error) {
      tell(problem, error.message);
    }
  };
  const button = (text, work) => make("button", { type: "button", on: { click: work } }, text);
  const first = button("Forget", () => {
    const keep = button("Keep it", () => {
      actions.replaceChildren(first);
      first.focus();
    });
    actions.replaceChildren(
      make("span", {}, `Forget lesson ${id}? “Erase” destroys its words too, for good.`),
      button("Forget it", () => drop(false)),
      button("Erase it", () => drop(true)),
      keep,
    );
    keep.focus();
  });
  first.setAttribute("aria-label", `Forget lesson ${id}`);
  if (status !== "retired") actions.append(first);
  return item;
}

function time(stamp) {
  const when = new Date(stamp ?? "");
  return Number.isNaN(when.getTime())
    ? ""
    : when.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}
