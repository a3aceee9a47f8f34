// The fleet editor: the text of a fleet file, checked by the server while it is written.

import { call } from "./api.js";
import { byId, make, whenQuiet } from "./dom.js";
import { listed } from "./words.js";

/** Wire the view; return { open }, which fetches the fleet in use unless a draft is being written. */
export function fleetView() {
  const text = byId("fleet-text");
  const status = byId("fleet-status");
  const use = byId("fleet-use");
  let inUse = null;
  let checked = 0;

  function say(sentence, kind) {
    status.textContent = sentence;
    status.className = `note ${kind}`;
    text.setAttribute("aria-invalid", String(kind === "error"));
  }
  const isDraft = () => inUse !== null && text.value !== inUse;
  const names = (robots) =>
    `${robots.length === 1 ? "1 robot" : `${robots.length} robots`}: ${listed(robots)}.`;

  function show(body) {
    inUse = text.value = body.text;
    use.disabled = true;
    say(`In use: ${names(body.robots)}`, "good");
  }

  async function fetchInUse() {
    const before = text.value;
    try {
      const { body } = await call("GET", "v1/fleet/text");
      if (text.value === before) {
        show(body);
        return;
      }
      // What was written meanwhile stays.
      inUse = body.text;
      check();
    } catch (error) {
      say(error.message, "error");
    }
  }

  async function check() {
    const number = (checked += 1);
    use.disabled = true;
    if (!isDraft()) {
      say("This is the fleet in use.", "good");
      return;
    }
    try {
      const { body } = await call("PUT", "v1/fleet/text?check=true", { json: { text: text.value } });
      if (number !== checked) return;
      use.disabled = false;
      say(`Sound, not in use yet: ${names(body.robots)}`, "good");
    } catch (error) {
      if (number === checked) say(error.message, "error");
    }
  }
  const checkSoon = whenQuiet(300, check);

  text.addEventListener("input", () => {
    use.disabled = true;
    checkSoon();
  });
  use.addEventListener("click", async () => {
    use.disabled = true;
    try {
      show((await call("PUT", "v1/fleet/text", { json: { text: text.value } })).body);
    } catch (error) {
      say(error.message, "error");
    }
  });
  byId("fleet-reset").addEventListener("click", fetchInUse);
  byId("fleet-save").addEventListener("click", () => {
    const address = URL.createObjectURL(new Blob([text.value], { type: "text/yaml" }));
    make("a", { href: address, download: "fleet.yaml" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  });
  byId("fleet-open").addEventListener("click", () => byId("fleet-file").click());
  byId("fleet-file").addEventListener("change", async () => {
    const [file] = byId("fleet-file").files;
    byId("fleet-file").value = "";
    if (!file) return;
    text.value = await file.text();
    check();
  });
  byId("fleet-words").addEventListener("toggle", showWords, { once: true });

  return { open: () => (isDraft() ? undefined : fetchInUse()) };
}

async function showWords() {
  const list = byId("fleet-vocabulary");
  try {
    const { vocabulary } = (await call("GET", "v1/fleet")).body;
    const limits = Object.entries(vocabulary.limits).map(([key, unit]) => `${key} (${unit})`);
    const rows = [
      ["capabilities", vocabulary.capabilities],
      ["environments", vocabulary.environments],
      ["limits", limits],
      ["status", vocabulary.statuses],
    ];
    list.replaceChildren(
      ...rows.flatMap(([key, found]) => [make("dt", {}, key), make("dd", {}, found.join(", "))]),
    );
  } catch (error) {
    list.replaceChildren(make("dd", {}, error.message));
  }
}
