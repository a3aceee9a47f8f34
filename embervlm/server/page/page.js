// The page: views by address (#decide, #lessons, #fleet), the request's form, examples and colours.

import { call } from "./api.js";
import { decisionView, spoken } from "./answer.js";
import { byId, keep, kept, make, tell } from "./dom.js";
import { fleetView } from "./fleet.js";
import { lessonsView } from "./lessons.js";
import { photoField } from "./photo.js";

const KEPT_COLOURS = "embervlm-colours";
const NOTHING_YET = "Nothing has been asked yet.";
const EXAMPLES = [
  [
    "A photo of the sea bed",
    "Our sensor came off its mooring somewhere here. Find it and cut the line.",
    "page/seabed.jpg",
  ],
  [
    "People on a roof",
    "Reach the people on the roof and tell them over a loudspeaker that help is coming.",
    "",
  ],
  [
    "A weight that rules robots out",
    "Haul 320 kg of sandbags along the sealed road to the pumping station.",
    "",
  ],
  [
    "A job for a team",
    "Map the collapsed block from above, then search the rubble for survivors and bring 12 kg of medical supplies to them.",
    "",
  ],
  [
    "Two hands and a conversation",
    "Turn off the gas valve in the basement, then guide the family out to the road.",
    "",
  ],
  ["Nobody can", "Lift the 900 kg concrete slab off the car.", ""],
  ["A hard one", "Inspect the harbour wall below the waterline while the wind is gusting at 70 km/h.", ""],
];

function views() {
  const opened = { lessons: lessonsView(), fleet: fleetView() };
  const show = (moveFocus) => {
    const found = location.hash.slice(1);
    const name = ["decide", "lessons", "fleet"].includes(found) ? found : "decide";
    for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== `view-${name}`;
    for (const link of document.querySelectorAll("nav a")) {
      if (link.dataset.view === name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    const title = byId(`${name}-title`);
    document.title = `${title.textContent} – embervlm`;
    opened[name]?.open();
    if (!moveFocus) return;
    window.scrollTo(0, 0);
    (name === "decide" ? byId("task") : title).focus();
  };
  window.addEventListener("hashchange", () => location.hash === "#main" || show(true));
  show(false);
}

function askForm() {
  const photo = photoField();
  const task = byId("task");
  const button = byId("decide");
  let running = null;

  async function decide(asked) {
    running?.abort();
    const mine = (running = new AbortController());
    tell(byId("problem"), "");
    byId("status").textContent = "Deciding …";
    byId("answer").setAttribute("aria-busy", "true");
    const form = new FormData();
    if (asked.task) form.append("task", asked.task);
    if (asked.photo) form.append("image", asked.photo, "photo");
    const began = performance.now();
    try {
      const { body, timing } = await call("POST", "v1/select", { form, signal: mine.signal });
      const tripMs = performance.now() - began;
      const again = async () => {
        await decide(asked);
        byId("answer-title").focus();
      };
      byId("decision").replaceChildren(...decisionView({ decision: body, timing, tripMs, asked, again }));
      byId("status").textContent = spoken(body, timing);
      byId("idle").hidden = true;
      const isBelow = byId("answer").getBoundingClientRect().top > window.innerHeight / 2;
      if (isBelow) byId("answer").scrollIntoView({ block: "start" });
    } catch (error) {
      if (error.name === "AbortError") return;
      byId("decision").replaceChildren();
      byId("status").textContent = "There is no answer.";
      tell(byId("problem"), error.message);
    } finally {
      if (running === mine) byId("answer").removeAttribute("aria-busy");
    }
  }

  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const asked = { task: task.value.trim(), photo: photo.get() };
    if (asked.task || asked.photo) {
      decide(asked);
      return;
    }
    byId("status").textContent = "";
    tell(byId("problem"), "Nothing was asked: write a request, or give a photo.");
    task.focus();
  });
  task.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      byId("ask").requestSubmit(button);
    }
  });
  byId("clear").addEventListener("click", () => {
    running?.abort();
    task.value = "";
    photo.clear();
    byId("decision").replaceChildren();
    tell(byId("problem"), "");
    byId("status").textContent = NOTHING_YET;
    task.focus();
  });
  examples(task, photo);
  button.disabled = false;
  byId("status").textContent = NOTHING_YET;
}

function examples(task, photo) {
  const begin = async (words, address) => {
    task.value = words;
    photo.clear();
    if (address) {
      const response = await fetch(address);
      await photo.take(new File([await response.blob()], "seabed.jpg", { type: "image/jpeg" }));
    }
    byId("status").textContent = "An example is filled in; Decide answers it.";
  };
  const buttons = EXAMPLES.map(([name, words, address]) =>
    make("button", { type: "button", on: { click: () => begin(words, address) } }, name),
  );
  byId("examples").append(...buttons);
}

function colours() {
  const select = byId("theme");
  const apply = () => {
    if (select.value === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = select.value;
  };
  select.value = kept(KEPT_COLOURS) ?? "auto";
  if (!select.value) select.value = "auto";
  apply();
  select.addEventListener("change", () => {
    keep(KEPT_COLOURS, select.value);
    apply();
  });
}

colours();
askForm();
views();
