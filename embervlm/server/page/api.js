// Calls to the server that sent this page. A refusal becomes an Error whose message is the server's
// own sentence. Where a key is asked for, the person is, once, and the call is made again.

import { byId, keep, kept } from "./dom.js";

const KEPT_KEY = "embervlm-key";
export const KEPT_AUTHOR = "embervlm-author";
let asking = null;

/** Call a route; return { body, timing } with the milliseconds that the server names. */
export async function call(method, path, { json, form, signal } = {}) {
  const response = await answered(method, path, { json, form, signal });
  if (response.status === 401) {
    await askForKey();
    return call(method, path, { json, form, signal });
  }
  let body = null;
  try {
    body = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(`The server's answer (${response.status}) cannot be read; try again.`);
  }
  if (!response.ok) throw new Error(body?.error?.message ?? `The server refused (${response.status}).`);
  return { body, timing: timingOf(response.headers.get("server-timing") ?? "") };
}

/** Take a lesson out of force, or destroy it, in the name that this person gave. */
export function forget(id, erase = false) {
  const query = new URLSearchParams({ erase, author: kept(KEPT_AUTHOR) || "operator" });
  return call("DELETE", `v1/memory/${id}?${query}`);
}

async function answered(method, path, { json, form, signal }) {
  const headers = {};
  const key = kept(KEPT_KEY, "sessionStorage");
  if (key) headers.authorization = `Bearer ${key}`;
  if (json !== undefined) headers["content-type"] = "application/json";
  const body = json === undefined ? form : JSON.stringify(json);
  try {
    return await fetch(path, { method, headers, body, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached; see whether it is still running, then try again.");
  }
}

/** Read "queue;dur=0.1, decide;dur=11.2" as { queue: 0.1, decide: 11.2 }. */
function timingOf(header) {
  const found = header.matchAll(/(\w+);dur=([\d.]+)/g);
  return Object.fromEntries([...found].map(([, name, ms]) => [name, Number(ms)]));
}

/** Ask the person for a key; several calls at a time share one question. */
function askForKey() {
  keep(KEPT_KEY, "", "sessionStorage");
  asking ??= new Promise((resolve, reject) => {
    const dialog = byId("key-dialog");
    const field = byId("key");
    field.value = "";
    const cancel = () => dialog.close("");
    byId("key-cancel").addEventListener("click", cancel);
    dialog.addEventListener(
      "close",
      () => {
        asking = null;
        byId("key-cancel").removeEventListener("click", cancel);
        const key = field.value.trim();
        field.value = "";
        if (dialog.returnValue !== "use" || !key) {
          reject(new Error("This server answers only with a key; ask again to give one."));
        } else if (!/^[\x21-\x7e]+$/.test(key)) {
          reject(new Error("A key has only letters, digits and plain signs; ask again to give one."));
        } else {
          keep(KEPT_KEY, key, "sessionStorage");
          resolve();
        }
      },
      { once: true },
    );
    dialog.returnValue = "";
    dialog.showModal();
  });
  return asking;
}
